# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Two processes with half of each batch take the steps of one process with the whole."""

import os

import pytest
import torch
import torch.multiprocessing as mp
from mmengine.hooks import Hook
from mmengine.model import MMDistributedDataParallel
from mokd_testing import copy_of, partners_cfg, ring_cfg, runner_cfg, train, worst_difference

from mmmokd.utils import get_ori_model

pytestmark = pytest.mark.dist


GRAPHS = dict(ring=ring_cfg, partners=partners_cfg)


class Steps(Hook):
    """Losses and weights of every iteration, teachers and centers among them."""

    priority = 'VERY_LOW'

    def before_train(self, runner):
        self.losses, self.states = [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append({key: float(value) for key, value in outputs.items()})
        self.states.append(copy_of(get_ori_model(runner.model).state_dict()))


def config(folder, processes, counts, branches):
    if branches in GRAPHS:
        branches = GRAPHS[branches](folder.parent)
    cfg = runner_cfg(
        folder, length=8, batch_size=4 // processes, max_epochs=2, branches=branches,
        optim=dict(accumulative_counts=counts),
    )  # fmt: skip
    # The first step has the full learning rate, and moves the prototype layers too.
    cfg.param_scheduler = None
    cfg.default_hooks.prototype_freeze.freeze_epochs = 0
    if processes > 1:
        cfg.launcher = 'pytorch'
        cfg.model_wrapper_cfg = dict(
            type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False
        )
    return cfg


def run(cfg):
    torch.set_default_dtype(torch.float64)
    steps = Steps()
    runner = train(cfg, steps)
    return runner, dict(losses=steps.losses, states=steps.states)


def run_on_rank(rank, folder, counts, branches):
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2')
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2
    )
    runner, steps = run(config(folder / 'two', 2, counts, branches))
    assert isinstance(runner.model, MMDistributedDataParallel)
    torch.save(steps, folder / f'steps_{rank}.pth')
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ('counts', 'branches'),
    [(1, ('cnn', 'vit')), (2, 'ring'), pytest.param(2, 'partners', marks=pytest.mark.long)],
)
def test_two_processes_train_as_one(tmp_path, counts, branches, float64):
    if branches in GRAPHS:
        GRAPHS[branches](tmp_path)  # the processes read what it writes
    mp.spawn(run_on_rank, (tmp_path, counts, branches), nprocs=2)
    ranks = [torch.load(tmp_path / f'steps_{rank}.pth') for rank in range(2)]
    _, one = run(config(tmp_path / 'one', 1, counts, branches))
    assert len(one['losses']) == len(ranks[0]['losses']) == 4

    start = one['states'][0]
    for i, (losses, state) in enumerate(zip(one['losses'], one['states'], strict=True)):
        first, second = (rank['losses'][i] for rank in ranks)
        assert losses.keys() == first.keys() == second.keys()
        assert first != second
        for key, value in losses.items():
            assert (first[key] + second[key]) / 2 == pytest.approx(value, rel=1e-9), (i, key)
        for rank in ranks:
            assert worst_difference(rank['states'][i], state) < 1e-9, i
        for key, value in ranks[0]['states'][i].items():
            assert torch.equal(value, ranks[1]['states'][i][key]), (i, key)
    moved = {key for key, value in start.items() if not torch.equal(one['states'][-1][key], value)}
    still = {key for key in start if key not in moved}
    frozen = {key for key in start if is_frozen(key, branches)}
    assert frozen <= still and bool(frozen) == (branches in GRAPHS)
    assert all('original0' in key and '.projector.' in key for key in still - frozen), still
    assert any('.latent.head.predictor.' in key for key in moved) == (branches == 'ring')


def is_frozen(key, branches):
    if branches == 'ring':
        return key.startswith('branches.big.')
    _, name, _, part, *_ = key.split('.')
    update = key.endswith(('lora_down', 'lora_up'))
    return part == 'backbone' and (name == 'big' or (name == 'low' and not update))
