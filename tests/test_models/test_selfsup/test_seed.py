# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""SEED against plain loops over numbers."""

import pytest
import torch
from mmengine.registry import DefaultScope
from mokd_testing import BACKBONES, CHANNELS, random_views
from plain_seed import slow_seed_loss
from torch.nn.functional import normalize

from mmmokd.registry import MODELS

POOLED = dict(seed=dict(queue_length=7, target_reads='pooled'))


def build(heads=None, teacher=None, width=CHANNELS['vit'], **kwargs):
    """A CNN that learns from a frozen ViT."""
    torch.manual_seed(0)
    branches = dict(
        small=dict(backbone=BACKBONES['cnn'], ema=False, heads=heads or POOLED),
        big=dict(backbone=BACKBONES['vit'], frozen=True, **(teacher or {})),
    )
    settings = dict(
        global_size=32,
        neck_defaults=dict(out_channels=width, hid_channels=12),
        data_preprocessor=dict(type='mmengine.BaseDataPreprocessor'),
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(dict(type='mmmokd.SEED', branches=branches, **{**settings, **kwargs}))
        model.init_weights()
    model.to(torch.get_default_dtype())
    big = model.branches['big']
    big.load_state_dict(big.state_dict())  # random, for the test
    return model


@pytest.mark.parametrize(
    ('which', 'sizes', 'pairs'),
    [
        ('first', (32,), [(0, 0)]),
        ('globals', (32, 32), [(0, 0), (1, 1)]),
        ('all', (32, 32, 24), [(0, 0), (1, 1), (2, 0), (2, 1)]),
    ],
)
def test_losses_and_queue(which, sizes, pairs, float64):
    globals_ = min(len(sizes), 2)
    model = build(student_views=which, num_global_views=globals_)
    branch = model.branches['small']
    queue = branch.heads['seed']['big'].queue
    rows = queue['teacher'].tolist()
    for step in range(3):
        views = random_views(2, sizes, seed=step)
        groups = [each for each in (views[:globals_], views[globals_:]) if each]
        with torch.no_grad():
            student = normalize(branch.student(groups, 2)['projector'], dim=-1).tolist()
            teacher = model.branches['big'].teacher(groups[:1], 2)['pooled']
            teacher = normalize(teacher, dim=-1).tolist()
        losses = model(views, mode='loss')
        expected = slow_seed_loss(student, teacher, rows, pairs)
        assert list(losses) == ['small.loss_seed.big']
        assert losses['small.loss_seed.big'].item() == pytest.approx(expected, rel=1e-9)
        new = [row for view in teacher for row in view]
        rows = [*rows[len(new) :], *new]
        start = int(queue.pointer)
        found = torch.cat([queue['teacher'][start:], queue['teacher'][:start]])
        torch.testing.assert_close(found, torch.tensor(rows), rtol=1e-9, atol=1e-12)
    losses['small.loss_seed.big'].backward()
    assert all(p.grad is not None for p in branch.student.parameters())
    assert all(p.grad is None for p in model.branches['big'].parameters())
    model.eval()
    model(views, mode='loss')
    assert int(queue.pointer) == start


def test_teacher_with_a_projector():
    """It is built in the frozen branch, and must be loaded with it."""
    model = build(dict(seed=dict(queue_length=7)), width=6)
    assert model.branches['big'].teacher.neck_names == ('projector',)
    assert len(model(random_views(2, (32,)), mode='loss')) == 1
    assert model.branches['small'].heads['seed']['big'].queue['teacher'].shape == (7, 6)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (
            dict(width=6),
            "branch small, heads.seed: the student's projector must be as wide as the teacher's "
            r'pooled, but has 6 channels for 24: set out_channels .* to 24',
        ),
        (dict(student_views='two'), "student_views of SEED must be one of 'first', 'globals'"),
    ],
)
def test_what_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)


def test_a_random_teacher_teaches_nothing():
    model = build()
    for module in model.branches['big'].modules():
        module.__dict__.pop('_loaded_tensors', None)
    with pytest.raises(ValueError, match='branch big: the frozen branch would teach noise'):
        model(random_views(2, (32,)), mode='loss')
