# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from mmpretrain.registry import MODELS as MMPRETRAIN
from torch import nn

from mmmokd.models.heads import SwAVHead
from mmmokd.models.necks import DINOProjector
from mmmokd.structures import BackboneFeatures, NetworkOutput, Views

B, C, D, K = 4, 6, 5, 7
VIEWS = Views([torch.zeros(B, 3, 2, 2)] * 2, [torch.zeros(B, 3, 1, 1)] * 3)


def make_output(num_views, seed=0, neck=None, **kwargs):
    """Features of views through a projector with normalized prototypes."""
    torch.manual_seed(seed)
    network = nn.Module()
    network.projector = neck or DINOProjector(C, K, 8, D, **{'train_gain': False, **kwargs})
    pooled = torch.randn(num_views * B, C, requires_grad=True)
    return NetworkOutput(network, [BackboneFeatures(pooled, pooled[:, None], (1, 1))], B)


def rescaled(q, dim):
    return q / q.sum(dim=dim, keepdim=True)


def plain_loss(student, codes_of, temperature=0.1, epsilon=0.05, num_iters=3):
    """Equation 2 of SwAV over multi-crop (equation 6), pair by pair and image by image."""
    terms = []
    for g in range(2):
        q = (codes_of[g] / epsilon).exp()
        for _ in range(num_iters):
            q = rescaled(rescaled(q, 0), 1)
        for v in range(len(student)):
            for b in range(B):
                if v != g:
                    p = rescaled((student[v, b] / temperature).exp(), 0)
                    terms.append(-(q[b].detach() * p.log()).sum())
    return sum(terms) / len(terms)


@pytest.mark.parametrize('teacher', ['none', 'own'])
@pytest.mark.parametrize('case', [dict(), dict(epsilon=0.2, num_iters=5, student_temp=0.3)])
def test_loss_and_gradients(teacher, case, float64):
    head = SwAVHead(teacher=teacher, loss_weight=0.5, **case)
    student = make_output(5)
    own = None if teacher == 'none' else make_output(2, seed=1)
    loss = head.loss(student, own, VIEWS)
    case = dict(case)
    temperature = case.pop('student_temp', 0.1)
    scores = student['projector']
    codes_of = scores if own is None else own['projector']
    expected = 0.5 * plain_loss(scores, codes_of, temperature, **case)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    learns = [student.passes[0].pooled, *student.network.projector.mlp.parameters()]
    learns.append(student.prototype_layer('projector').parametrizations.weight.original1)
    for grad, other in zip(
        *(torch.autograd.grad(each, learns, retain_graph=True) for each in (loss, expected)),
        strict=True,
    ):
        torch.testing.assert_close(grad, other, rtol=1e-9, atol=1e-13)


def test_earlier_features_are_assigned_with_the_batch(float64):
    """A queue of two steps and a part of a third, from an epoch on; the state is in buffers."""
    head, earlier = SwAVHead(queue_length=10, queue_start_epoch=2), [[], []]
    network = make_output(5).network
    head.connect(network, None)
    assert head.queue['first'].shape == (10, D)
    head.set_epoch(1.5)
    for step in range(5):
        if step == 3:
            head.set_epoch(2)
        student = make_output(5, seed=step, neck=network.projector)
        scores = student['projector']
        features, layer = student.prototype_input('projector')
        codes_of, batch = [scores[0], scores[1]], len(scores[0])
        if step >= 3:
            codes_of = [torch.cat([own, layer(torch.cat(rows)[-10:])]) for own, rows in
                        zip(codes_of, earlier, strict=True)]  # fmt: skip
        loss, expected = head.loss(student, None, VIEWS), plain_loss(scores, codes_of)
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)  # rows are float32
        assert loss.requires_grad and batch == B
        for rows, view in zip(earlier, features, strict=False):
            rows.append(view.detach())
    assert set(head.state_dict()) == {'queue.first', 'queue.second', 'queue.pointer'}
    with pytest.raises(ValueError, match='for 2 global views, but num_global_views is 1'):
        head.loss(student, None, Views(VIEWS.globals[:1], []))


def test_as_mmpretrain_in_one_process(float64):
    student = make_output(5)
    features, layer = student.prototype_input('projector')
    swav = MMPRETRAIN.build(dict(type='SwAVLoss', feat_dim=D, num_prototypes=K, num_crops=[2, 3]))
    swav.prototypes.weight.data.copy_(layer.weight)
    expected = swav(features.flatten(0, 1))
    torch.testing.assert_close(SwAVHead().loss(student, None, VIEWS), expected)


def test_scores_are_not_rounded_in_mixed_precision():
    expected = SwAVHead().loss(make_output(5), None, VIEWS)
    student = make_output(5)
    student.prototype_input('projector')
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = SwAVHead().loss(student, None, VIEWS)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(train_gain=True), r'gain is trained: set projector=dict\(train_gain=False\)'),
        (dict(neck=nn.Identity()), 'reads prototypes, but Identity .projector. has none'),
    ],
)
def test_other_projectors_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        SwAVHead().loss(make_output(5, **kwargs), None, VIEWS)
    with pytest.raises(ValueError, match='epsilon of SwAVHead must be a positive number'):
        SwAVHead(epsilon=0)
