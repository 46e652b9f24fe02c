# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import math
import os
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.multiprocessing as mp
from mmengine.dataset import pseudo_collate
from mmengine.hooks import Hook, LoggerHook
from mmengine.model import BaseModel
from mmengine.runner import Runner, load_checkpoint
from mokd_testing import short_log, train
from torch import nn
from torch.utils.data import Dataset

from mmmokd.engine.hooks import non_finite_loss_hook
from mmmokd.engine.hooks.non_finite_loss_hook import NonFiniteLossHook, non_finite_names


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    """mmengine pauses for two seconds at the end of each pass of an iteration-based run."""
    monkeypatch.setattr('mmengine.runner.loops.time.sleep', lambda seconds: None)


class Numbers(Dataset):
    metainfo = dict()

    def __init__(self, length=4):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return dict(inputs=torch.ones(2))


class Model(BaseModel):
    """Breaks at a step: its loss is not a number, or only its gradient."""

    def __init__(self, bad_step=None, bad_gradient=False):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.register_buffer('mask', torch.full((2,), -torch.inf))
        self.bad_step, self.bad_gradient, self.steps = bad_step, bad_gradient, 0

    def forward(self, inputs, data_samples=None, mode='loss'):
        self.steps += 1
        loss = self.weight.square()
        if self.steps != self.bad_step:
            return {'a.loss_sm': loss, 'a.loss_st': loss, 'a.norm': torch.tensor(torch.inf)}
        if self.bad_gradient:
            # sqrt has an infinite slope at 0, where its value is fine.
            return {'a.loss_sm': loss + (self.weight - self.weight.detach()).abs().sqrt()}
        return {'a.loss_sm': loss * torch.nan, 'a.loss_st': loss, 'a.norm': loss}


def build_runner(folder, model, checkpoint=None, by_epoch=False, length=4, **kwargs):
    cycle = dict(max_epochs=3) if by_epoch else dict(max_iters=6)
    default = dict(type='CheckpointHook', interval=1, by_epoch=by_epoch, max_keep_ckpts=1)
    with short_log():
        return Runner(
            model=model,
            work_dir=str(folder),
            experiment_name=folder.name,
            train_dataloader=dict(
                dataset=Numbers(length),
                batch_size=2,
                sampler=dict(type='DefaultSampler', shuffle=False),
                collate_fn=pseudo_collate,
            ),
            train_cfg=dict(by_epoch=by_epoch, **cycle),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
            default_hooks=dict(checkpoint=dict(default, **(checkpoint or {}))),
            custom_hooks=[NonFiniteLossHook()],
            **kwargs,
        )


def test_a_healthy_run_is_not_touched(tmp_path):
    build_runner(tmp_path, Model()).train()
    assert (tmp_path / 'iter_6.pth').is_file()


@pytest.fixture(params=[False, True])
def asynchronous(request, monkeypatch):
    """Losses that are read as they are computed, or later, as on a GPU."""
    if request.param:
        monkeypatch.setattr(non_finite_loss_hook, 'is_asynchronous', lambda tensor: True)
    return request.param


@pytest.mark.parametrize('bad_gradient', [False, True])
@pytest.mark.parametrize('by_epoch', [False, True])
def test_stops_with_the_last_good_checkpoint_on_disk(
    tmp_path, by_epoch, bad_gradient, asynchronous
):
    # Two iterations an epoch: the fourth ends the second one.
    runner = build_runner(tmp_path, Model(4, bad_gradient), by_epoch=by_epoch)
    with pytest.raises(FloatingPointError) as caught:
        runner.train()
    text, good = str(caught.value), tmp_path / ('epoch_1.pth' if by_epoch else 'iter_3.pth')
    assert 'stopped at iteration 4' in text
    if bad_gradient:
        assert '1 of 2 tensors of the model are not finite' in text and ': weight.' in text
    else:
        assert 'loss not finite: a.loss_sm = nan.' in text and 'loss_st' not in text
    assert f'The last good checkpoint is {good}' in text and f'--resume {good}' in text
    assert [path.name for path in tmp_path.glob('*.pth')] == [good.name]
    model = Model()
    load_checkpoint(model, str(good))
    assert math.isfinite(model.weight.item())


@pytest.mark.parametrize(
    ('bad_step', 'settings', 'iters'),
    [
        (2, {}, 3),  # nothing reads the second iteration, so the next one begins
        (6, {}, 6),  # the last
        (2, dict(interval=2), 2),  # its losses are about to be logged
        (2, dict(save=2), 2),
    ],
)
def test_when_a_run_stops(tmp_path, bad_step, settings, iters, asynchronous):
    """In the iteration itself, or in the next where the device computes on; with the same words."""
    model = Model(bad_step)
    saves = dict(interval=settings.get('save', 100), save_last=False)
    runner = build_runner(tmp_path, model, saves, length=100)
    (logger,) = (hook for hook in runner.hooks if isinstance(hook, LoggerHook))
    logger.interval = settings.get('interval', 100)
    with pytest.raises(FloatingPointError) as caught:
        runner.train()
    text = f'stopped at iteration {bad_step}: loss not finite: a.loss_sm = nan. No checkpoint'
    assert text in str(caught.value)
    assert model.steps == (iters if asynchronous else bad_step)
    assert not list(tmp_path.glob('*.pth'))


class BreakOneWeight(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 3:
            network = runner.model.branches['vit'].student
            network.projector.mlp[0].weight.data[0, 0] = torch.nan


def test_terms_of_mokd_are_named(runner_cfg):
    hooks = dict(
        checkpoint=dict(type='CheckpointHook', interval=1),
        non_finite=dict(type='mmmokd.NonFiniteLossHook'),
    )
    cfg = runner_cfg()  # of two iterations an epoch
    cfg.default_hooks.update(hooks)
    with pytest.raises(FloatingPointError) as caught:
        train(cfg, BreakOneWeight())
    # The projector of the ViT's student makes the student's side of these terms and of no other.
    terms = 'vit.loss_sm = nan, vit.loss_cm.cnn = nan'
    assert f'stopped at iteration 4: loss not finite: {terms}. ' in str(caught.value)
    good = Path(cfg.work_dir, 'epoch_1.pth')
    assert f'The last good checkpoint is {good}' in str(caught.value) and good.is_file()
    assert not Path(cfg.work_dir, 'epoch_2.pth').exists()


def test_nothing_that_comes_after_runs(tmp_path):
    runner = build_runner(tmp_path, Model(1))
    with pytest.raises(FloatingPointError, match='No checkpoint was written yet: start again'):
        runner.train()
    assert not list(tmp_path.glob('*.pth'))
    names = [type(hook).__name__ for hook in runner.hooks]
    assert names.index('NonFiniteLossHook') < names.index('LoggerHook')
    assert names.index('NonFiniteLossHook') < names.index('CheckpointHook')


def test_resumed_run_names_what_it_came_from(tmp_path):
    build_runner(tmp_path / 'old', Model()).train()
    old = str(tmp_path / 'old' / 'iter_6.pth')
    train_cfg = dict(by_epoch=False, max_iters=9)
    runner = build_runner(tmp_path / 'new', Model(1), load_from=old, resume=True)
    runner._train_loop.update(train_cfg)
    with pytest.raises(FloatingPointError, match=f'iteration 7: .*last good checkpoint is {old}'):
        runner.train()


def test_checkpoint_that_is_gone(tmp_path):
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_1.pth'))
    runner = SimpleNamespace(work_dir=tmp_path, iter=1, hooks=[], _resume=False)
    with pytest.raises(FloatingPointError, match=r'was .*iter_1.pth, but it does not exist'):
        NonFiniteLossHook().after_train_iter(runner, 1, outputs=dict(loss=torch.tensor(torch.inf)))


def test_a_bad_state_is_never_written(tmp_path):
    runner = build_runner(tmp_path, Model())
    runner.train()
    runner.model.weight.data.fill_(torch.inf)
    with pytest.raises(FloatingPointError, match='not finite, and no checkpoint .*: weight'):
        runner.save_checkpoint(str(tmp_path), 'bad.pth')
    assert not (tmp_path / 'bad.pth').exists()


def test_total_is_named_where_no_term_is_to_blame():
    runner = SimpleNamespace(work_dir='nowhere', iter=0, hooks=[], _resume=False)
    outputs = {'loss': torch.tensor(torch.inf), 'loss_a': torch.tensor(1.0)}
    with pytest.raises(FloatingPointError, match='loss not finite: loss = inf'):
        NonFiniteLossHook().after_train_iter(runner, 0, outputs=outputs)
    with pytest.raises(ValueError, match=r"gave no loss, but \['acc'\]"):
        NonFiniteLossHook().after_train_iter(runner, 0, outputs=dict(acc=torch.tensor(1.0)))


def test_non_finite_names():
    state = dict(
        good=torch.ones(3),
        nan=torch.tensor([0.0, torch.nan]),
        number=torch.tensor(3),
        half=torch.tensor([torch.inf]).half(),
    )
    assert non_finite_names(state) == ['nan', 'half']
    assert non_finite_names(dict(number=torch.tensor(3))) == []


def train_on_rank(rank, port):
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', rank=rank, world_size=2)
    runner = SimpleNamespace(work_dir='nowhere', iter=6, hooks=[], _resume=False)
    outputs = dict(loss_a=torch.tensor(1.0), loss_b=torch.tensor(2.0))
    NonFiniteLossHook().after_train_iter(runner, 0, outputs=outputs)
    if rank == 1:
        outputs['loss_b'] = torch.tensor(torch.nan)
    value = 'nan' if rank == 1 else r'2.0 \(not finite elsewhere\)'
    with pytest.raises(FloatingPointError, match=f'iteration 7: loss not finite: loss_b = {value}'):
        NonFiniteLossHook().after_train_iter(runner, 0, outputs=outputs)
    torch.distributed.destroy_process_group()


@pytest.mark.dist
def test_all_processes_stop_together():
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        port = sock.getsockname()[1]
    # Forked, for started from scratch each process would spend most of the time on imports.
    mp.start_processes(train_on_rank, args=(port,), nprocs=2, start_method='fork')
