# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import functools

import pytest
import torch
from mokd_testing import branch_cfg, build_mokd, random_views

from mmmokd.models.heads import MaskedPatchHead
from mmmokd.structures import Views

G, B, N, K = 2, 3, 16, 7
PROJECTOR = dict(type='mmmokd.DINOProjector', out_channels=K, hid_channels=9, bottleneck_channels=6)
HEAD = dict(type='mmmokd.MaskedPatchHead', center_momentum=0.6, loss_weight=0.5)


def build(kind='vit', neck=PROJECTOR, **head):
    """A MOKD of one branch with masked patches, and what it sees."""
    branch = branch_cfg(kind, patch_projector=neck, heads=dict(patch=dict(HEAD, **head)))
    model = build_mokd({kind: branch}, global_size=32)
    views = random_views(B)
    return model, Views(views[:G], views[G:])


def softmax(scores):
    weights = [score.exp() for score in scores]
    return torch.stack(weights) / sum(weights)


def plain_loss(student, teacher, masks, center, student_temp=0.1, teacher_temp=0.04):
    """Equation 2 of iBOT (arXiv 2111.07832), view by view and patch by patch.

    Logits of all patches, (G * B, N, K). As in the authors' code, `main_ibot.py`: the mean over a
    view's masked patches, then over views and images, those without a mask included.
    """
    total = 0
    for own, other, mask in zip(student, teacher, masks, strict=True):
        terms = []
        for patch in range(N):
            if mask[patch]:
                target = softmax((other[patch] - center) / teacher_temp)
                terms.append(-(target * softmax(own[patch] / student_temp).log()).sum())
        total = total + sum(terms) / max(len(terms), 1)
    return total / len(masks)


@pytest.mark.parametrize('neck', ['prototypes', 'logits'])
def test_loss_gradients_and_center_over_steps(neck, float64):
    """Of a neck with a prototype layer, and of any other that takes tokens."""
    other = dict(
        type='mmpretrain.NonLinearNeck', in_channels=24, hid_channels=9, out_channels=K,
        with_avg_pool=False, norm_cfg=dict(type='LN'), with_last_bn=False,
    )  # fmt: skip
    model, views = build(neck=PROJECTOR if neck == 'prototypes' else other)
    branch = model.branches.vit
    head, network = branch.heads.patch, branch.student
    torch.nn.init.normal_(head.mask_token)
    images, center, means = torch.cat(views.globals), torch.zeros(K), []
    learns = [*head.parameters(), *network.backbone.parameters()]
    learns += [p for p in network.patch_projector.parameters() if p.requires_grad]

    def logits(net, features):
        found = net.patch_projector((features.tokens.flatten(0, 1),))
        found = found[-1] if isinstance(found, tuple) else found
        return found.unflatten(0, (G * B, N))

    for step in range(3):
        head.accumulating = step == 0  # the first micro-batch of two
        torch.manual_seed(step)
        loss = head.loss(branch.forward_student(views), branch.forward_teacher(views), views)
        torch.manual_seed(step)
        masks = head.draw_masks(G * B, (4, 4))
        assert masks.any(dim=1).sum() < G * B, 'a view without a mask'
        own = logits(network, network.extract_masked(images, masks, head.mask_token[0]))
        other = logits(branch.teacher, branch.teacher.extract(images)).detach()
        expected = 0.5 * plain_loss(own, other, masks, center)
        torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
        for grad, plain in zip(
            torch.autograd.grad(loss, learns, allow_unused=True),
            torch.autograd.grad(expected, learns, allow_unused=True),
            strict=True,
        ):
            torch.testing.assert_close(grad, plain, rtol=1e-8, atol=1e-12)
        means.append(other.mean(dim=(0, 1)))
        if not head.accumulating:
            center, means = 0.6 * center + 0.4 * sum(means) / len(means), []
        torch.testing.assert_close(head.center[0], center, rtol=1e-10, atol=1e-14)
        branch.teacher.backbone.pos_embed.data.mul_(1.5)  # another teacher


def test_a_masked_pass_is_made_for_the_head_alone():
    """Two passes of the student, one of the teacher, and one more for masked views."""
    for head, passes in ((HEAD, 3), (None, 2)):
        branch = branch_cfg('vit', heads=dict(patch=head))
        if head:
            branch.update(patch_projector=PROJECTOR)
        model = build_mokd(dict(vit=branch), global_size=32)
        calls = []
        hook = functools.partial(_count, calls)
        model.branches.vit.student.backbone.register_forward_hook(hook)
        model.loss(random_views(B))
        assert len(calls) == passes


def _count(calls, *args):
    calls.append(args[0])


def test_with_one_projector_for_both_terms():
    model, _ = build(neck=None, reads='projector', out_channels=10)
    losses = model.loss(random_views(B))
    assert set(losses) == {'vit.loss_sm', 'vit.loss_st', 'vit.loss_patch'}
    sum(losses.values()).backward()
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (
            dict(kind='cnn'),
            'branch cnn: masked patches need a ViT, .* ResNet_CIFAR has no patch_embed',
        ),
        (dict(mask_ratio=(0.5, 0.1)), r'must be \(low, high\) in \(0, 1\], but got \(0.5, 0.1\)'),
        (dict(mask_prob=0), r'mask_prob of MaskedPatchHead must be in \(0, 1\], but got 0'),
    ],
)
def test_errors(kwargs, message):
    with pytest.raises(ValueError, match=message):
        build(**kwargs)
    assert MaskedPatchHead(K, 24).mask_token.shape == (1, 24)
    with pytest.raises(ValueError, match="own teacher, but teacher is 'peers'"):
        MaskedPatchHead(K, 24, teacher='peers')
