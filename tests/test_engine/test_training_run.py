# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Whole runs against whole runs: accumulated against large batches, resumed against uninterrupted.

The branches have group norms, so a batch in two halves is a batch.
"""

from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mokd_testing import build_runner, ring_cfg, short_log, train, worst_difference


def optimizer_states(runner):
    """Momenta and step counts by the name of the parameter."""
    names = {param: name for name, param in runner.model.named_parameters()}
    return {
        f'{names[param]}.{key}': torch.as_tensor(value, dtype=torch.float64)
        for wrapper in runner.optim_wrapper.values()
        for param, state in wrapper.optimizer.state.items()
        for key, value in state.items()
        if value is not None
    }


def settings_of(runner):
    return {
        name: [(group['lr'], group['weight_decay']) for group in wrapper.param_groups]
        for name, wrapper in runner.optim_wrapper.items()
    }


@pytest.mark.parametrize(('counts', 'ring'), [(2, True), (4, False)])
def test_accumulation_equals_a_larger_batch(runner_cfg, tmp_path, counts, ring, float64):
    """Students, teachers, centers, predictors, momenta and learning rates after three epochs."""
    branches = ring_cfg(tmp_path) if ring else ('cnn', 'vit')
    whole = train(runner_cfg('whole', length=24, batch_size=8, max_epochs=3, branches=branches))
    parts = train(
        runner_cfg(
            'parts', length=24, batch_size=8 // counts, max_epochs=3, branches=branches,
            optim=dict(accumulative_counts=counts),
        )
    )  # fmt: skip
    assert parts.iter == counts * whole.iter == counts * 9
    assert worst_difference(parts.model.state_dict(), whole.model.state_dict()) < 1e-9
    assert worst_difference(optimizer_states(parts), optimizer_states(whole)) < 1e-8
    assert settings_of(parts) == settings_of(whole)
    # The comparison would see a teacher, a center or a weight that stayed: all have moved.
    state = whole.model.state_dict()
    assert all(state[key].abs().max() > 1e-3 for key in state if key.endswith('center'))


@pytest.mark.parametrize(
    ('counts', 'after', 'ring'), [(1, 1, True), (1, 2, False), (2, 1, False), (2, 2, True)]
)
def test_resumed_run_equals_an_uninterrupted_one(runner_cfg, tmp_path, counts, after, ring):
    """From an epoch's checkpoint, bit for bit: weights, teachers, centers, momenta, settings."""
    branches = ring_cfg(tmp_path) if ring else ('cnn', 'vit')

    def cfg(folder, **kwargs):
        made = runner_cfg(
            folder, length=8, batch_size=2, max_epochs=3, branches=branches,
            optim=dict(accumulative_counts=counts), **kwargs,
        )  # fmt: skip
        made.train_dataloader.sampler.shuffle = True
        made.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
        return made

    first = cfg('first')
    whole = train(first)
    checkpoint = f'{first.work_dir}/epoch_{after}.pth'
    resumed = train(cfg('resumed', resume=True, load_from=checkpoint))
    assert resumed.iter == whole.iter == 12
    state, expected = resumed.model.state_dict(), whole.model.state_dict()
    assert state.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(state[key], value), key
    states, expected = optimizer_states(resumed), optimizer_states(whole)
    assert states.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(states[key], value), key
    assert settings_of(resumed) == settings_of(whole)
    momenta = [r.message_hub.get_scalar('train/ema_momentum').current() for r in (resumed, whole)]
    assert momenta[0] == momenta[1]


class Scheduled(Hook):
    """All that is scheduled, as every iteration leaves it; settings as it finds them."""

    priority = 'VERY_LOW'

    def before_train(self, runner):
        self.seen = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.settings = settings_of(runner)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        scalars = runner.message_hub.log_scalars
        keys = ('ema_momentum', 'cnn.sm.teacher_temp', 'vit.sm.teacher_temp', 'vit.ct.teacher_temp')
        values = [scalars[f'train/{key}'].current() for key in keys]
        self.seen.append((self.settings, values))


@pytest.mark.parametrize('epochs', [2, 4])
def test_resumed_run_follows_its_new_length(runner_cfg, epochs):
    """Rates, decay, EMA momentum and temperatures are those of a run that has it from the start."""

    def cfg(folder, max_epochs, **kwargs):
        made = runner_cfg(folder, length=6, batch_size=2, max_epochs=max_epochs, **kwargs)
        made.default_hooks.head_schedule.base_epochs = 100
        made.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
        return made

    first = cfg('first', 3)
    train(first)
    whole, resumed = Scheduled(), Scheduled()
    train(cfg('whole', epochs), whole)
    done = min(epochs - 1, 3)
    checkpoint = f'{first.work_dir}/epoch_{done}.pth'
    runner = build_runner(cfg('resumed', epochs, resume=True, load_from=checkpoint), resumed)
    with short_log():
        runner.train()
    assert len(resumed.seen) == 3
    assert resumed.seen == whole.seen[3 * done :]
    (log,) = Path(runner.log_dir).glob('*.log')
    assert log.read_text().count(f'run of 9 iterations, and this one has {3 * epochs}') == 1
