# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import math

import pytest
from mmengine.hooks import Hook
from mokd_testing import build_runner, optim_wrapper_cfg, train

BATCH, EPOCHS, LENGTH = 2, 2, 16
BASE = 4  # images that the rates are for
SCHEDULES = {  # peak and last learning rate
    ('cnn', 'main'): (0.1, 0.0048),
    ('cnn', 'search_head'): (3e-3, 1e-5),
    ('vit', 'main'): (3e-3, 1e-5),
}


class Rates(Hook):
    """Learning rates by branch and part, as every iteration finds them."""

    def before_train(self, runner):
        self.seen = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.seen.append(
            {
                (name, group['part']): group['lr']
                for name, wrapper in runner.optim_wrapper.items()
                for group in wrapper.param_groups
            }
        )


def scaled_cfg(runner_cfg, counts, folder='run', enable=True, max_epochs=EPOCHS, **kwargs):
    cfg = runner_cfg(
        folder, length=LENGTH, batch_size=BATCH, max_epochs=max_epochs,
        optim=dict(accumulative_counts=counts),
        auto_scale_lr=dict(base_batch_size=BASE, enable=enable), **kwargs,
    )  # fmt: skip
    cfg.default_hooks.accumulated_lr = dict(type='mmmokd.AccumulatedLRHook')
    return cfg


def expected_rates(iteration, counts, scale):
    """One epoch of warm-up from 0, then a cosine, in optimizer steps; never raised towards its end."""
    step, steps = iteration // counts, LENGTH * EPOCHS // BATCH // counts
    warmup = steps // EPOCHS
    rates = {}
    for key, (peak, last) in SCHEDULES.items():
        peak *= scale
        last = min(peak, last)
        share = (step - warmup) / (steps - warmup)
        rates[key] = (
            peak * step / (warmup - 1)
            if step < warmup
            else last + (peak - last) * (1 + math.cos(math.pi * share)) / 2
        )
    return rates


@pytest.mark.parametrize('counts', [1, 2, 4])
def test_rates_are_for_the_images_of_a_step(runner_cfg, counts):
    """Warm-up, peak and end of every branch; what a log line says is what is done."""
    hook = Rates()
    runner = build_runner(scaled_cfg(runner_cfg, counts), hook)
    lines = []
    runner.logger.info = lambda text, *args: lines.append(text)
    runner.train()
    assert len(hook.seen) == LENGTH * EPOCHS // BATCH
    for iteration, seen in enumerate(hook.seen):
        expected = expected_rates(iteration, counts, BATCH * counts / BASE)
        assert seen == pytest.approx(expected, rel=1e-12, abs=1e-15), iteration
    said = [line for line in lines if 'batches of 2 images' in line]
    assert len(said) == (counts > 1)
    assert all(f'scaled by {counts} more, by {BATCH * counts / BASE:g} in all' in x for x in said)


def test_rates_stay_without_auto_scale_lr(runner_cfg):
    hook = Rates()
    train(scaled_cfg(runner_cfg, 4, enable=False), hook)
    for iteration, seen in enumerate(hook.seen):
        assert seen == pytest.approx(expected_rates(iteration, 4, 1.0), rel=1e-12, abs=1e-15)


def test_a_resumed_run_is_scaled_once(runner_cfg):
    whole, resumed = Rates(), Rates()
    cfg = scaled_cfg(runner_cfg, 4, 'whole')
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
    train(cfg, whole)
    checkpoint = f'{cfg.work_dir}/epoch_1.pth'
    train(scaled_cfg(runner_cfg, 4, 'resumed', resume=True, load_from=checkpoint), resumed)
    assert resumed.seen == whole.seen[LENGTH // BATCH :]


class OneRate(Hook):
    """The learning rate of a plain optimizer wrapper, as every iteration finds it."""

    def before_train(self, runner):
        self.seen = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.seen.append(runner.optim_wrapper.param_groups[0]['lr'])


@pytest.mark.parametrize('schedules', [None, [dict(type='CosineAnnealingLR', T_max=8)]])
def test_one_optimizer_with_schedules_of_mmengine(runner_cfg, schedules):
    """Four batches of 2 images a step, for a base of 4, have the rates of a base of 1."""
    seen = []
    for counts, base in ((4, 4), (1, 1)):
        hook = OneRate()
        cfg = scaled_cfg(runner_cfg, 1, f'run{base}')
        optimizer = optim_wrapper_cfg(('vit',))['branches']['vit']['optimizer']
        cfg.optim_wrapper = dict(optimizer=optimizer, accumulative_counts=counts)
        cfg.param_scheduler = schedules and [dict(schedules[0], by_epoch=False)]
        cfg.auto_scale_lr.base_batch_size = base
        train(cfg, hook)
        seen.append(hook.seen)
    assert seen[0] == pytest.approx(seen[1], rel=1e-12)
    assert seen[0][0] == pytest.approx(3e-3 * 2, rel=1e-12)


def test_a_run_that_only_validates_has_nothing_to_scale(runner_cfg):
    runner = build_runner(scaled_cfg(runner_cfg, 4))
    runner.call_hook('before_run')
    assert isinstance(runner.optim_wrapper, dict)
