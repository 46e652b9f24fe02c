# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""A run of one process continues in two, as it does in one with the same images a step."""

import os

import pytest
import torch
import torch.multiprocessing as mp
from mmengine.hooks import Hook
from mokd_testing import copy_of, runner_cfg, train, worst_difference

from mmmokd.utils import get_ori_model

pytestmark = [pytest.mark.dist, pytest.mark.long]


class Last(Hook):
    """Describe where the run began, how many iterations it did, and what it ended with."""

    priority = 'VERY_LOW'

    def before_train(self, runner):
        self.first = (runner.epoch, runner.iter)
        self.rates = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        groups = [w.param_groups[0] for w in runner.optim_wrapper.values()]
        self.rates.append([(group['lr'], group['weight_decay']) for group in groups])

    def after_train(self, runner):
        self.state = copy_of(get_ori_model(runner.model).state_dict())


def config(folder, batch_size, max_epochs, processes=1, **kwargs):
    cfg = runner_cfg(
        folder, length=16, batch_size=batch_size, max_epochs=max_epochs,
        auto_scale_lr=dict(base_batch_size=4, enable=True), **kwargs,
    )  # fmt: skip
    cfg.default_hooks.prototype_freeze.freeze_epochs = 0
    cfg.default_hooks.resume = dict(type='mmmokd.ResumeHook')
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
    if processes > 1:
        cfg.launcher = 'pytorch'
        cfg.model_wrapper_cfg = dict(
            type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False
        )
    return cfg


def resume(folder, batch_size, processes=1):
    torch.set_default_dtype(torch.float64)
    hook = Last()
    checkpoint = str(folder / 'first' / 'epoch_2.pth')
    place = folder / f'{processes}x{batch_size}'
    train(config(place, batch_size, 4, processes, resume=True, load_from=checkpoint), hook)
    return dict(first=hook.first, rates=hook.rates, state=hook.state)


def resume_on_rank(rank, folder, batch_size):
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2')
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/store{batch_size}', rank=rank, world_size=2
    )
    found = resume(folder, batch_size, 2)
    torch.save(found, folder / f'found_{rank}.pth')
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(('batch_size', 'iteration'), [(2, 8), (4, 4)])
def test_one_process_goes_on_in_two(tmp_path, batch_size, iteration, float64):
    train(config(tmp_path / 'first', 4, 4))
    one = resume(tmp_path, 2 * batch_size)
    mp.spawn(resume_on_rank, (tmp_path, batch_size), nprocs=2)
    ranks = [torch.load(tmp_path / f'found_{rank}.pth') for rank in range(2)]
    for rank in ranks:
        assert rank['first'] == one['first'] == (2, iteration)
        assert rank['rates'] == one['rates'] and len(one['rates']) == iteration
        assert worst_difference(rank['state'], one['state']) < 1e-9
