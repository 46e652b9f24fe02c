# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mokd_testing import AfterStep, branch_cfg, model_cfg, optim_wrapper_cfg, train

from mmmokd.engine import HeadScheduleHook
from mmmokd.models.heads import BaseDistillationHead

LONG = dict(sm=dict(warmup_teacher_temp_epochs=3), st=dict(warmup_teacher_temp_epochs=3))
SHORT = dict(
    cm=dict(warmup_teacher_temp_epochs=2), ct=dict(warmup_teacher_temp_epochs=2, teacher_temp=0.1)
)
BRANCHES = dict(
    cnn=branch_cfg('cnn', heads=LONG | SHORT), vit=branch_cfg('vit', heads=dict(sm=SHORT['cm']))
)


class Temperatures(Hook):
    """Teacher temperatures of all heads, and those logged, as the forward pass finds them."""

    priority = 'VERY_LOW'

    def before_train(self, runner):
        self.seen, self.logged = [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.seen.append(
            {
                name.removeprefix('branches.').replace('.heads', ''): head.teacher_temp
                for name, head in runner.model.named_modules()
                if isinstance(head, BaseDistillationHead)
            }
        )
        scalars = runner.message_hub.log_scalars
        self.logged.append(
            {
                key.removeprefix('train/'): value.current()
                for key, value in scalars.items()
                if 'teacher_temp' in key
            }
        )


def linear(epoch, length, end=0.07):
    return np.linspace(0.04, end, length)[epoch] if epoch < length else end


def check(hook, epochs):
    for seen, logged, epoch in zip(hook.seen, hook.logged, epochs, strict=True):
        expected = {
            'cnn.sm': linear(epoch, 3),
            'cnn.st': linear(epoch, 3),
            'cnn.cm.vit': linear(epoch, 2),
            'cnn.ct.vit': linear(epoch, 2, 0.1),
            'vit.sm': linear(epoch, 2),
            'vit.st': linear(epoch, 30),
            'vit.cm.cnn': linear(epoch, 30),
            'vit.ct.cnn': linear(epoch, 30),
        }
        assert seen == pytest.approx(expected, rel=1e-14)
        # A head of each term, whoever the peer is.
        by_term = {'.'.join(key.split('.')[:2]): value for key, value in expected.items()}
        named = {f'{key}.teacher_temp': value for key, value in by_term.items()}
        assert logged == pytest.approx(named, rel=1e-14)


def test_temperatures_of_the_epochs(runner_cfg):
    hook = Temperatures()
    train(runner_cfg(length=4, batch_size=2, max_epochs=4, model=model_cfg(BRANCHES)), hook)
    check(hook, [0, 0, 1, 1, 2, 2, 3, 3])


def test_temperatures_without_epochs(runner_cfg):
    """An epoch is the length of the loader."""
    hook = Temperatures()
    cfg = runner_cfg(
        length=4,
        batch_size=2,
        model=model_cfg(BRANCHES),
        train_cfg=dict(by_epoch=False, max_iters=5),
        param_scheduler=None,
    )
    train(cfg, hook)
    check(hook, [0, 0, 1, 1, 2])


@pytest.mark.parametrize(
    'loop', [dict(by_epoch=True, max_epochs=4), dict(by_epoch=False, max_iters=8)]
)
def test_a_short_run_hurries_through_the_warm_up(runner_cfg, loop):
    """Four epochs, for warm-ups that are for ten: an epoch counts for two and a half."""
    hook = Temperatures()
    branches = dict(vit=branch_cfg('vit', heads=dict(sm=dict(warmup_teacher_temp_epochs=6))))
    cfg = runner_cfg(
        length=4, batch_size=2, model=model_cfg(branches), train_cfg=loop, param_scheduler=None,
        optim_wrapper=optim_wrapper_cfg(branches),
    )  # fmt: skip
    cfg.default_hooks.head_schedule.base_epochs = 10
    train(cfg, hook)
    temps = [0.04, 0.04 + 0.03 * 2.5 / 5, 0.07, 0.07]
    found = [seen['vit.sm.teacher_temp'] for seen in hook.logged]
    assert found == pytest.approx([temp for temp in temps for _ in range(2)], rel=1e-14)


def test_a_run_that_is_long_enough_takes_its_time(runner_cfg):
    hook = Temperatures()
    cfg = runner_cfg(length=4, batch_size=2, max_epochs=4, model=model_cfg(BRANCHES))
    cfg.default_hooks.head_schedule.base_epochs = 3
    train(cfg, hook)
    check(hook, [0, 0, 1, 1, 2, 2, 3, 3])


def test_base_epochs_that_are_none():
    with pytest.raises(ValueError, match='base_epochs must be at least 1, but got 0'):
        HeadScheduleHook(base_epochs=0)


def test_one_branch_has_no_cross_temperature(runner_cfg):
    hook = Temperatures()
    train(runner_cfg(length=4, max_epochs=1, branches=('vit',)), hook)
    assert hook.logged == [{'vit.sm.teacher_temp': 0.04, 'vit.st.teacher_temp': 0.04}]


@pytest.mark.parametrize(
    ('counts', 'moves'), [(1, [True] * 5), (2, [False, True, False, True, True])]
)
def test_centers_move_with_the_optimizer(runner_cfg, counts, moves):
    """Also in the last micro-batch of a run, whatever of a step is left."""
    cfg = runner_cfg(length=10, batch_size=2, max_epochs=1, optim=dict(accumulative_counts=counts))
    centers = []

    def keep(runner):
        centers.append(
            {k: v.clone() for k, v in runner.model.named_buffers() if k.endswith('center')}
        )

    train(cfg, AfterStep(keep))
    before = {key: torch.zeros_like(value) for key, value in centers[0].items()}
    assert len(before) == 6
    for after, moved in zip(centers, moves, strict=True):
        assert all(torch.equal(after[key], before[key]) != moved for key in after)
        before = after
