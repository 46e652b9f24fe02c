# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from mmengine.model import BaseModule
from mmpretrain.registry import MODELS as MMPRETRAIN
from torch import nn

from mmmokd.models.heads import ViewPairHead
from mmmokd.structures import BackboneFeatures, NetworkOutput, Views

PREDICTOR = dict(
    type='mmpretrain.NonLinearNeck', in_channels=6, hid_channels=5, out_channels=6, num_layers=2,
    with_avg_pool=False, with_bias=True, with_last_bn=False, norm_cfg=dict(type='GN', num_groups=1),
)  # fmt: skip
MOCO = dict(
    type='mmpretrain.MoCoV3Head', temperature=0.2, predictor=PREDICTOR,
    loss=dict(type='mmpretrain.CrossEntropyLoss', loss_weight=0.4),
)  # fmt: skip
BYOL = dict(
    type='mmpretrain.LatentPredictHead', predictor=PREDICTOR,
    loss=dict(type='mmpretrain.CosineSimilarityLoss'),
)  # fmt: skip


def build(head, seed=0, **kwargs):
    torch.manual_seed(seed)
    head = ViewPairHead(head, 'moco', **kwargs)
    head.init_weights()
    return head


def outputs(batch=4, globals_=2, seed=1):
    """Students' outputs of the global and of two local views, teachers' outputs, the views."""
    torch.manual_seed(seed)
    student = torch.randn(globals_ + 2, batch, 6, requires_grad=True)
    teacher = torch.randn(globals_, batch, 6, requires_grad=True)
    return student, teacher, Views([torch.zeros(batch, 3, 2, 2)] * globals_, [])


class Output(dict):
    """In place of a NetworkOutput, of a network that treats views one by one."""

    def first(self, num_views):
        return {name: value[:num_views] for name, value in self.items()}


def normalized(rows):
    return rows / rows.square().sum(dim=1, keepdim=True).sqrt()


def plain_moco(query, key, temperature=0.2):
    """Cross-entropy of each query with its own key among all keys."""
    total = 0
    for i, q in enumerate(query):
        scores = torch.stack([(q * k).sum() / temperature for k in key])
        total = total - (scores[i].exp() / scores.exp().sum()).log()
    return 0.4 * total / len(query)


def plain_byol(query, key):
    return -(query * key).sum(dim=1).mean()


@pytest.mark.parametrize(('head', 'plain'), [(MOCO, plain_moco), (BYOL, plain_byol)])
@pytest.mark.parametrize('globals_', [2, 3])
def test_symmetric_loss_and_gradients(head, plain, globals_, float64):
    term = build(head, loss_weight=0.5)
    student, teacher, views = outputs(globals_=globals_)
    loss = term.loss(Output(moco=student), Output(moco=teacher), views)
    pairs = [(v, g) for g in range(globals_) for v in range(globals_) if v != g]
    predictor = term.head.predictor
    expected = 0.5 * sum(
        plain(normalized(predictor([student[v]])[0]), normalized(teacher[g].detach()))
        for v, g in pairs
    )
    learns = [student, *term.parameters()]
    torch.testing.assert_close(loss, expected / len(pairs), rtol=1e-12, atol=0)
    for grad, other in zip(
        torch.autograd.grad(loss, learns),
        torch.autograd.grad(expected / len(pairs), learns),
        strict=True,
    ):
        torch.testing.assert_close(grad, other, rtol=1e-10, atol=1e-13)
    with pytest.raises(RuntimeError, match='not have been used in the graph'):
        torch.autograd.grad(term.loss(Output(moco=student), Output(moco=teacher), views), teacher)


def test_without_a_teacher_it_is_simsiam(float64):
    """As mmpretrain's SimSiam computes it, with half of the weight for each direction."""
    term = build(BYOL, teacher='none')
    student, _, views = outputs()
    loss = term.loss(Output(moco=student), None, views)
    simsiam = MMPRETRAIN.build(BYOL)
    simsiam.load_state_dict(term.head.state_dict())
    expected = 0.5 * (simsiam.loss(student[0], student[1]) + simsiam.loss(student[1], student[0]))
    (grad,) = torch.autograd.grad(loss, student)
    (expected_grad,) = torch.autograd.grad(expected, student)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(grad, expected_grad)


class PairHead(BaseModule):
    def loss(self, student, target):
        return (student - target).square().mean()


def test_a_head_of_ones_own_and_mim():
    student, teacher, views = outputs()
    MMPRETRAIN.register_module(name='OwnPairHead', module=PairHead, force=True)
    expected = ((student[:2] - teacher.flip(0)) ** 2).mean()
    mim = dict(type='mmpretrain.MIMHead', loss=dict(type='mmpretrain.PixelReconstructionLoss',
                                                    criterion='L2'))  # fmt: skip
    for head in (dict(type='mmpretrain.OwnPairHead'), mim):
        loss = ViewPairHead(head, 'moco').loss(Output(moco=student), Output(moco=teacher), views)
        torch.testing.assert_close(loss, expected)


LOSS = dict(type='mmpretrain.CrossEntropyLoss')


@pytest.mark.parametrize(
    ('head', 'found'),
    [
        (dict(type='mmpretrain.SwAVHead', loss=LOSS), r'SwAVHead has loss\(pred\)'),
        (dict(type='mmpretrain.ContrastiveHead', loss=LOSS), r'ContrastiveHead .*\(pos, neg\)'),
        (dict(type='mmpretrain.ClsHead'), r'ClsHead has loss\(feats, data_samples\)'),
        (dict(type='mmpretrain.SimMIMHead', patch_size=4, loss=LOSS), r'\(pred, target, mask\)'),
        (LOSS, r'CrossEntropyLoss has loss\(\)'),
    ],
)
def test_other_heads_are_refused(head, found):
    with pytest.raises(ValueError, match=r'takes heads with a loss\(student, target\).*' + found):
        ViewPairHead(head, 'moco')


def test_one_global_view():
    student, teacher, views = outputs(globals_=1)
    with pytest.raises(ValueError, match='two global views, but num_global_views is 1'):
        build(BYOL).loss(Output(moco=student), Output(moco=teacher), views)


def test_target_of_another_neck(float64):
    """The predictor is a neck: SimSiam without one of the head's own."""
    own = dict(type='mmpretrain.MIMHead', loss=dict(type='mmpretrain.CosineSimilarityLoss'))
    term = ViewPairHead(own, 'predictor', teacher='none', target_reads='moco', loss_weight=2.0)
    student, _, views = outputs()
    predicted = torch.randn_like(student, requires_grad=True)
    loss = term.loss(Output(predictor=predicted, moco=student), None, views)
    p, z = ([normalized(view) for view in x[:2]] for x in (predicted, student.detach()))
    expected = plain_byol(p[0], z[1]) + plain_byol(p[1], z[0])
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    grads = torch.autograd.grad(loss, (predicted, student), allow_unused=True)
    assert grads[0][:2].abs().min() > 0 and grads[1] is None


def test_batch_norms_see_the_global_views_alone(float64):
    """Of the student as of the teacher, which has no others."""
    neck = dict(type='mmpretrain.NonLinearNeck', in_channels=6, hid_channels=5, out_channels=6,
                with_avg_pool=False, norm_cfg=dict(type='BN1d'))  # fmt: skip
    network = nn.Module()
    network.moco = MMPRETRAIN.build(neck)
    student, _, views = outputs()
    flat = [student[:2].flatten(0, 1), student[2:].flatten(0, 1)]
    passes = [BackboneFeatures(x, x[:, None], (1, 1)) for x in flat]
    head = build(BYOL, teacher='none')
    loss = head.loss(NetworkOutput(network, passes, 4), None, views)
    (alone,) = network.moco((flat[0],))
    own = Output(moco=alone.unflatten(0, (2, 4)))
    torch.testing.assert_close(loss, head.loss(own, None, views), rtol=1e-12, atol=0)
