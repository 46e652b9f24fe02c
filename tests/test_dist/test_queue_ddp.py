# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Algorithms with queues: two processes give losses, gradients and queues of one."""

import os

import pytest
import torch
import torch.multiprocessing as mp
from mmengine.registry import DefaultScope
from mokd_testing import BACKBONES, random_views

from mmmokd.registry import MODELS

pytestmark = pytest.mark.dist
CNN, VIT = (dict(backbone=BACKBONES[name]) for name in ('cnn', 'vit'))
SEED_HEAD = dict(seed=dict(target_reads='pooled', queue_length=10))
MODEL = dict(global_size=32, data_preprocessor=dict(type='mmengine.BaseDataPreprocessor'))
ALGORITHMS = (
    dict(
        MODEL, type='mmmokd.MCL', queue_length=10, branches=dict(cnn=CNN, vit=VIT),
        neck_defaults=dict(out_channels=5)),
    dict(
        MODEL, type='mmmokd.SEED', num_global_views=2, student_views='globals',
        neck_defaults=dict(out_channels=24, hid_channels=8),
        branches=dict(cnn=dict(CNN, heads=SEED_HEAD), vit=dict(VIT, frozen=True))),
)  # fmt: skip


def two_steps(images=slice(None)):
    """Losses and gradients of the second step of each algorithm, and what is in the queues."""
    found = []
    for cfg in ALGORITHMS:
        torch.manual_seed(0)
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            model = MODELS.build(cfg)
        model.load_state_dict(model.state_dict())  # a frozen branch wants to have been loaded
        for step in range(2):
            views = random_views(4, (32, 32), seed=step)
            losses = model([view[images] for view in views], mode='loss')
        sum(losses.values()).backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        queues = [x for key, x in model.state_dict().items() if 'queue' in key and x.dim()]
        # Of several views, images are in another order.
        queues = [rows[rows[:, 0].argsort()] for rows in queues]
        found += [*(loss.detach() for loss in losses.values()), *grads, *queues]
    return found


def run_on_rank(rank, folder):
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2')
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2
    )
    torch.save(two_steps(slice(2 * rank, 2 * rank + 2)), f'{folder}/{rank}.pth')
    torch.distributed.destroy_process_group()


def test_two_processes_are_one(tmp_path, float64):
    mp.start_processes(run_on_rank, (tmp_path,), nprocs=2, start_method='fork')
    first, second = (torch.load(tmp_path / f'{rank}.pth') for rank in range(2))
    for one, two, whole in zip(first, second, two_steps(), strict=True):
        torch.testing.assert_close((one + two) / 2, whole, rtol=1e-9, atol=1e-13)
