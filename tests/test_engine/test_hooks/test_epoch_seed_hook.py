# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import random

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mokd_testing import branch_cfg, model_cfg, train

import mmmokd.engine.hooks.epoch_seed_hook as epoch_seed_hook

MODEL = model_cfg(dict(vit=branch_cfg('vit', backbone=dict(drop_path_rate=0.5))))
PERSISTENT = dict(num_workers=1, persistent_workers=True)


class Draws(Hook):
    """Records what the generators of the process would give next, in every iteration."""

    priority = 'VERY_LOW'

    def before_train(self, runner):
        self.seen = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        self.seen.append((random.random(), np.random.random(), torch.rand(()).item()))
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def seeded_cfg(runner_cfg, folder, loader=None, seed=0, max_epochs=3, **kwargs):
    cfg = runner_cfg(
        folder, length=6, batch_size=2, max_epochs=max_epochs, branches=('vit',), model=MODEL,
        randomness=dict(seed=seed), **kwargs,
    )  # fmt: skip
    cfg.train_dataloader.update(loader or {})
    cfg.default_hooks.epoch_seed = dict(type='mmmokd.EpochSeedHook')
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
    return cfg


def run(cfg):
    """Return what a run drew, and its weights."""
    hook = Draws()
    runner = train(cfg, hook)
    iterator = runner.train_dataloader._iterator  # of workers that persist
    if iterator is not None:  # left to the garbage collector they are waited for
        iterator._shutdown_workers()
    return hook.seen, runner.model.state_dict()


@pytest.mark.parametrize('loader', [{}, dict(num_workers=1), PERSISTENT])
def test_a_resumed_run_draws_what_a_whole_one_does(runner_cfg, loader):
    cfg = seeded_cfg(runner_cfg, 'whole', loader)
    draws, weights = run(cfg)
    resumed = dict(resume=True, load_from=f'{cfg.work_dir}/epoch_2.pth')
    draws_after, weights_after = run(seeded_cfg(runner_cfg, 'resumed', loader, **resumed))
    assert draws_after == draws[6:]
    assert all(torch.equal(weights_after[key], value) for key, value in weights.items())


def test_epochs_seeds_and_ranks_differ(runner_cfg, monkeypatch):
    first = run(seeded_cfg(runner_cfg, 'first'))[0]
    assert run(seeded_cfg(runner_cfg, 'again'))[0] == first
    other_seed = run(seeded_cfg(runner_cfg, 'seed', seed=1))[0]
    monkeypatch.setattr(epoch_seed_hook, 'get_rank', lambda: 1)
    other_rank = run(seeded_cfg(runner_cfg, 'rank'))[0]
    # At the first of three iterations of three epochs; by library.
    starts = [seen[i] for seen in (first, other_seed, other_rank) for i in (0, 3, 6)]
    for draws in zip(*starts, strict=True):
        assert len(set(draws)) == 9


def test_passes_of_a_run_without_epochs(runner_cfg):
    """From the end of a pass its model draws as if it had not stopped; within one, from its start."""

    def cfg(folder, **kwargs):
        loop = dict(train_cfg=dict(by_epoch=False, max_iters=9), param_scheduler=None)
        made = seeded_cfg(runner_cfg, folder, **loop, **kwargs)
        made.default_hooks.checkpoint.update(by_epoch=False)
        made.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=False)
        return made

    whole = cfg('whole')
    draws, _ = run(whole)
    assert len({draw[2] for draw in draws}) == 9
    for after, expected in ((3, draws[3:]), (4, draws[3:4])):
        resumed = cfg(f'after{after}', resume=True, load_from=f'{whole.work_dir}/iter_{after}.pth')
        found, _ = run(resumed)
        assert found[: len(expected)] == expected
