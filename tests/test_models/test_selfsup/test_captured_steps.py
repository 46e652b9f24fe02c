# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Operations of one step that a CUDA graph would replay, on the CPU: they do for all steps."""

import copy

import pytest
import torch
from mokd_testing import BACKBONES, CHANNELS, branch_cfg, build_mokd, random_views
from torch.fx.experimental.proxy_tensor import make_fx

LINEAR = dict(hid_channels=7, out_channels=6)
SMALL = dict(global_size=32, neck_defaults=dict(out_channels=CHANNELS['vit'], hid_channels=12))


def pair(**kwargs):
    return {name: dict(backbone=BACKBONES[name], **kwargs) for name in ('cnn', 'vit')}


def offline(**heads):
    return dict(
        cnn=dict(backbone=BACKBONES['cnn'], heads=heads),
        vit=dict(backbone=BACKBONES['vit'], frozen=True),
    )


def queue(**kwargs):
    return dict(queue_length=7, **kwargs)


KOLEO = dict(koleo=dict(type='mmmokd.KoLeoHead'))
CASES = {
    'MOKD': dict(branches=dict(cnn=branch_cfg('cnn', heads=KOLEO), vit=branch_cfg('vit'))),
    'DINO': dict(branches=pair(), **SMALL),
    'DoGo': dict(branches=pair(projector=LINEAR), own_views=False, global_size=32),
    'MCL': dict(
        branches=pair(), queue_length=7, global_size=32, neck_defaults=dict(out_channels=6)
    ),
    'SEED': dict(
        branches=offline(seed=queue(target_reads='pooled')),
        num_global_views=2,
        student_views='globals',
        **SMALL,
    ),
    'CompRess': dict(branches=offline(kl=queue()), num_queues=2, global_size=32),
    'DisCo': dict(branches=offline(co=queue()), **SMALL),
}


def build(kind):
    model = build_mokd(type=f'mmmokd.{kind}', **CASES[kind]).double().train()
    for branch in model.branches.values():
        if branch.frozen:
            branch.load_state_dict(branch.state_dict())  # random, for the test
    return model


LONG = ('MOKD', 'DINO', 'DoGo', 'MCL')  # to trace


@pytest.mark.parametrize(
    'kind', [pytest.param(k, marks=[pytest.mark.long] * (k in LONG)) for k in CASES]
)
def test_operations_of_a_step_do_for_all_steps(kind):
    """Losses, gradients, and what the step leaves in buffers, of a second batch."""
    captured = build(kind)
    assert all(head.capturable for *_, head in captured.heads_by_name())
    eager = copy.deepcopy(captured)
    sizes = (32, 32, 24) if kind in ('MOKD', 'DINO') else (32, 32)
    first, second = ([v.double() for v in random_views(2, sizes, seed=seed)] for seed in (1, 2))

    def step(model, views):
        losses = {}
        for _, found in model.losses_by_branch(views):
            losses.update(found)
        params = [p for p in model.parameters() if p.requires_grad]
        grads = torch.autograd.grad(sum(losses.values()), params, allow_unused=True)
        return [x.detach() for x in (*losses.values(), *grads) if x is not None]

    captured._check_initialized()
    with torch.autograd.set_multithreading_enabled(False):
        graph = make_fx(lambda *views: step(captured, list(views)))(*first)
    step(eager, first)  # as tracing did
    with torch.no_grad():
        found = graph(*second)
    expected = step(eager, second)
    for value, other in zip(found, expected, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-9, atol=1e-12)
    for (name, value), other in zip(captured.named_buffers(), eager.buffers(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-9, atol=1e-12, msg=name)
