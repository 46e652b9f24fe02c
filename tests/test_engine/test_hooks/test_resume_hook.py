# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Runs resumed with other counts, against the formulas of a run that has them from the start."""

import math
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel, ExponentialMovingAverage
from mokd_testing import build_runner, runner_cfg, short_log, train
from torch import nn

from mmmokd.engine.resume import RECORD
from mmmokd.registry import MODELS
from mmmokd.weights import read_checkpoint

BASE = 4  # images a step that the rates are for
FIRST = dict(length=8, batch_size=2, max_epochs=3)  # what wrote the checkpoints: 12 iterations
DONE = 2  # epochs, in the checkpoint


def config(folder, branches=('vit',), counts=1, hooks=None, auto_scale=True, **kwargs):
    cfg = runner_cfg(
        folder, branches=branches, optim=dict(accumulative_counts=counts),
        auto_scale_lr=dict(base_batch_size=BASE, enable=auto_scale), **{**FIRST, **kwargs},
    )  # fmt: skip
    cfg.train_dataloader.sampler.shuffle = True
    cfg.default_hooks.update(
        accumulated_lr=dict(type='mmmokd.AccumulatedLRHook'),
        resume=dict(type='mmmokd.ResumeHook'),
        checkpoint=dict(type='CheckpointHook', interval=1),
    )
    cfg.default_hooks.update(hooks or {})
    cfg.default_hooks.head_schedule.base_epochs = 100
    cfg.default_hooks.prototype_freeze.freeze_epochs = DONE + 1
    return cfg


class Seen(Hook):
    """Records of every iteration: settings, momentum, temperature, images, and whether weights move."""

    priority = 'LOWEST'

    def before_train(self, runner):
        self.seen = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        branch = runner.model.branches['vit']
        self.before = [branch.teacher.backbone.cls_token, branch.student.projector.last_layer]
        self.before[1] = next(self.before[1].parameters())
        self.before = [weights.detach().clone() for weights in self.before]
        (group, *_) = runner.optim_wrapper['vit'].param_groups
        self.values = dict(
            epoch=runner.epoch, iter=runner.iter, lr=group['lr'], weight_decay=group['weight_decay'],
            images=[view.sum().item() for view in data_batch['inputs'][0]],
        )  # fmt: skip

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        branch = runner.model.branches['vit']
        teacher, prototypes = branch.teacher.backbone.cls_token, branch.student.projector.last_layer
        scalars = runner.message_hub.log_scalars
        self.seen.append(
            dict(
                self.values,
                teacher_moved=not torch.equal(self.before[0], teacher),
                prototypes_moved=not torch.equal(self.before[1], next(prototypes.parameters())),
                momentum=scalars['train/ema_momentum'].current(),
                temperature=scalars['train/vit.sm.teacher_temp'].current(),
            )
        )


def log_of(runner) -> str:
    (log,) = Path(runner.log_dir).glob('*.log')
    return log.read_text()


def resume(cfg, checkpoint):
    """Go on from a checkpoint: what every iteration has, and the log."""
    cfg.update(resume=True, load_from=str(checkpoint))
    seen = Seen()
    runner = build_runner(cfg, seen)
    with short_log():
        runner.train()
    return seen.seen, log_of(runner)


@pytest.fixture(scope='module')
def first_run(tmp_path_factory):
    """The work_dir of a run of three epochs of four iterations."""
    folder = tmp_path_factory.mktemp('first')
    train(config(folder))
    return folder


def half_cosine(share, start, end):
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def assert_follows(seen, first, epochs, length, counts, scale):
    """From an iteration on to the end, the formulas of a run of ``epochs`` times ``length``."""
    assert [values['iter'] for values in seen] == list(range(first, epochs * length))
    steps = math.ceil(epochs * length / counts)
    warmup = math.ceil(length / counts)
    for values in seen:
        place = values['iter']
        step = place // counts
        assert values['epoch'] == place // length
        assert step >= warmup
        peak = 3e-3 * scale
        lr = half_cosine((step - warmup) / (steps - warmup), peak, min(peak, 1e-5))
        assert values['lr'] == pytest.approx(lr, rel=1e-9)
        assert values['weight_decay'] == pytest.approx(
            half_cosine(step / steps, 0.04, 0.4), rel=1e-9
        )
        updates = (place + 1) % counts == 0 or place + 1 == epochs * length
        if updates:
            momentum = half_cosine(step / steps, 0.9, 1.0)
            assert values['momentum'] == pytest.approx(momentum, rel=1e-9)
        assert values['teacher_moved'] == updates
        assert values['prototypes_moved'] == (updates and values['epoch'] > DONE)
        warmed = min(values['epoch'] * 100 / epochs / 29, 1)
        assert values['temperature'] == pytest.approx(0.04 + 0.03 * warmed, rel=1e-9)


@pytest.mark.parametrize(
    ('kwargs', 'changes'),
    [
        (dict(batch_size=4), 'batch size 2 -> 4, iterations per epoch 4 -> 2'),
        (dict(batch_size=1), 'batch size 2 -> 1, iterations per epoch 4 -> 8'),
        (dict(counts=2), 'accumulative_counts 1 -> 2'),
        (dict(length=12), 'images 8 -> 12, iterations per epoch 4 -> 6'),
        (dict(length=4), 'images 8 -> 4, iterations per epoch 4 -> 2'),
        (dict(batch_size=4, counts=2, length=16), 'images 8 -> 16'),
    ],
)
def test_schedules_go_on_where_they_were(first_run, tmp_path, kwargs, changes):
    epochs = 5  # and longer than the first
    seen, log = resume(
        config(tmp_path, max_epochs=epochs, **kwargs), first_run / f'epoch_{DONE}.pth'
    )
    now = {**FIRST, 'counts': 1, **kwargs}
    length = now['length'] // now['batch_size']
    scale = now['batch_size'] * now['counts'] / BASE
    assert_follows(seen, DONE * length, epochs, length, now['counts'], scale)
    assert changes in log and 'epochs 3 -> 5' in log
    assert f'after epoch {DONE}, at iteration {DONE * length} of' in log or length == 4
    factor = now['batch_size'] * now['counts'] / 2
    assert (f'learning rates follow the batch linearly (x {factor:g})' in log) == (factor != 1)


def test_rates_without_scaling_stay(first_run, tmp_path):
    first = tmp_path / 'first'
    train(config(first, auto_scale=False, max_epochs=DONE))
    cfg = config(tmp_path / 'resumed', auto_scale=False, batch_size=4)
    seen, log = resume(cfg, first / f'epoch_{DONE}.pth')
    assert_follows(seen, 4, 3, 2, 1, 1)
    assert (
        'auto_scale_lr is off: learning rates stay those of the config; 4 images a step, 2' in log
    )


def test_nothing_is_said_or_touched_where_nothing_changed(first_run, tmp_path):
    read = read_checkpoint(first_run / f'epoch_{DONE}.pth')
    cfg = config(tmp_path, resume=True, load_from=str(first_run / f'epoch_{DONE}.pth'))
    runner = build_runner(cfg)
    loaded = {}

    class Loaded(Hook):
        priority = 'LOWEST'

        def after_load_checkpoint(self, runner, checkpoint):
            loaded.update(checkpoint)

    runner.register_hook(Loaded())
    with short_log():
        runner.train()
    for key in ('meta', 'param_schedulers'):
        assert repr(loaded[key]) == repr(read[key])
    groups = [content['optimizer']['vit']['param_groups'] for content in (loaded, read)]
    assert groups[0] == groups[1]
    for text in ('other counts', 'continues', 'auto_scale_lr', 'not that of', 'Nothing is left'):
        assert text not in log_of(runner)
    weights = [
        read_checkpoint(folder / 'epoch_3.pth')['state_dict'] for folder in (first_run, tmp_path)
    ]
    assert all(torch.equal(weights[1][key], value) for key, value in weights[0].items())


def test_checkpoint_without_a_record(first_run, tmp_path):
    """As those of before there was one; with the field that mmengine once had, of other GPUs."""
    checkpoint = read_checkpoint(first_run / f'epoch_{DONE}.pth')
    del checkpoint['meta'][RECORD]
    checkpoint['meta']['config'] = 'gpu_ids = [0, 1]'
    torch.save(checkpoint, tmp_path / 'old.pth')
    seen, log = resume(config(tmp_path / 'run', batch_size=4), tmp_path / 'old.pth')
    assert_follows(seen, 4, 3, 2, 1, 1)
    assert 'batch size 2 -> 4, iterations per epoch 4 -> 2' in log
    assert '4 images a step, another number in the checkpoint' in log


@pytest.mark.parametrize('batch_size', [2, 4])
def test_within_an_epoch(tmp_path, batch_size):
    """From the second of four iterations on: no image twice, and the schedules of the place."""
    by_iter = dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=5))
    first, whole = tmp_path / 'first', Seen()
    kwargs = dict(length=16, hooks=by_iter)
    runner = train(config(first, batch_size=2, **kwargs), whole)
    per_epoch = 16 // batch_size
    cfg = config(tmp_path / 'resumed', batch_size=batch_size, **kwargs)
    seen, log = resume(cfg, first / 'iter_20.pth')
    done = per_epoch // 2
    assert_follows(seen, 2 * per_epoch + done, 3, per_epoch, 1, batch_size / BASE)
    images = [image for values in seen for image in values['images']]
    assert images == [image for values in whole.seen[20:] for image in values['images']]
    assert f'after {done} batches of epoch 3, at iteration {2 * per_epoch + done} of' in log
    if batch_size == 2:
        assert seen == whole.seen[20:]
        found = read_checkpoint(tmp_path / 'resumed' / 'iter_24.pth')['state_dict']
        expected = runner.model.state_dict()
        assert all(torch.equal(found[key], value) for key, value in expected.items())


def by_iteration(folder, batch_size, max_iters, keep=2, **kwargs):
    checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=2, max_keep_ckpts=keep)
    cfg = config(
        folder, batch_size=batch_size, hooks=dict(checkpoint=checkpoint),
        train_cfg=dict(by_epoch=False, max_iters=max_iters), **kwargs,
    )  # fmt: skip
    cfg.train_dataloader.sampler.type = 'InfiniteSampler'
    for schedule in cfg.param_scheduler.vit:
        schedule.pop('convert_to_iter_based')
        schedule.by_epoch = False
    return cfg


def test_iterations(tmp_path):
    """In a run without epochs, images are what counts; new checkpoints stay."""
    folder = tmp_path / 'run'
    train(by_iteration(folder, 2, 12, keep=3))
    assert {file.name for file in folder.glob('*.pth')} == {
        'iter_8.pth',
        'iter_10.pth',
        'iter_12.pth',
    }
    cfg = by_iteration(folder, 4, 12, keep=3, counts=1)
    seen, log = resume(cfg, folder / 'iter_12.pth')
    assert [values['iter'] for values in seen] == list(range(6, 12))
    for values in seen:
        lr = half_cosine((values['iter'] - 1) / 11, 3e-3, 1e-5)
        assert values['lr'] == pytest.approx(lr, rel=1e-9)
        assert values['momentum'] == pytest.approx(
            half_cosine(values['iter'] / 12, 0.9, 1), rel=1e-9
        )
        assert values['teacher_moved']
    assert 'after as many images, at iteration 6 of 12 (12 in the checkpoint)' in log
    assert '48 images now, 24 before' in log and 'train_cfg.max_iters=6' in log
    names = {file.name for file in folder.glob('*.pth')}
    assert names == {'iter_8.pth', 'iter_10.pth', 'iter_12.pth'}
    assert read_checkpoint(folder / 'iter_8.pth')['meta'][RECORD]['batch_size'] == 4


@pytest.mark.parametrize(('batch_size', 'epochs'), [(2, 3), (4, 2)])
def test_finished_run(first_run, tmp_path, batch_size, epochs):
    cfg = config(tmp_path, batch_size=batch_size, max_epochs=epochs)
    seen, log = resume(cfg, first_run / 'epoch_3.pth')
    assert seen == []
    assert f'Nothing is left to train: 3 epochs are done, and the run has {epochs}.' in log


def test_what_differs_in_the_config_is_said(first_run, tmp_path):
    cfg = config(tmp_path, length=12, max_epochs=4)
    cfg.randomness.seed = 1
    cfg.optim_wrapper.branches.vit.optimizer.lr = 6e-3
    cfg.work_dir, cfg.log_level = str(tmp_path), 'WARNING'
    seen, log = resume(cfg, first_run / f'epoch_{DONE}.pth')
    after = log[log.index('The config is not that of the checkpoint:') :].splitlines()[1:5]
    assert sorted(line.strip() for line in after) == [
        "(the checkpoint's seed stays)",
        'optim_wrapper.branches.vit.optimizer.lr: 0.003 -> 0.006',
        'randomness.seed: 0 -> 1',
        'train_dataloader.dataset.length: 8 -> 12',
    ]
    assert_follows(seen, 12, 4, 6, 1, 1)  # twice the rate, for half of the images that it is for


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (
            dict(branches=('cnn', 'vit')),
            'optimizers of vit, and this run of cnn, vit',
        ),
        (dict(branches=('cnn',)), 'optimizers of vit, and this run of cnn'),
        (
            dict(optim=dict(type='SGD', lr=0.1, momentum=0.9)),
            'SGD of vit needs momentum, which was',
        ),
        (dict(parts=dict(projector=dict(lr=0.1))), 'AdamW of vit has groups of'),
        (
            dict(train_cfg=dict(by_epoch=False, max_iters=9)),
            'of a run in epochs and this one is in',
        ),
    ],
)
def test_checkpoint_of_another_kind(first_run, tmp_path, kwargs, message):
    optim, parts = kwargs.pop('optim', None), kwargs.pop('parts', None)
    cfg = config(tmp_path, resume=True, load_from=str(first_run / 'epoch_2.pth'), **kwargs)
    branch = cfg.optim_wrapper.branches.get('vit')
    if optim:
        branch.optimizer = optim
    if parts:
        branch.parts = parts
    if 'train_cfg' in kwargs:
        cfg.param_scheduler = None
    runner = build_runner(cfg)
    with short_log(), pytest.raises(ValueError, match=message):
        runner.train()


@MODELS.register_module()
class Line(BaseModel):
    """One weight; with an average of it that counts its updates, as BYOL's target network does."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(1, 1)
        self.average = ExponentialMovingAverage(self.net)

    def forward(self, inputs, mode='loss', **kwargs):
        self.average.update_parameters(self.net)
        return dict(loss=self.net(inputs[0].mean().reshape(1, 1)).pow(2).mean())


STOCK = [
    dict(
        type='LinearLR', start_factor=0.1, by_epoch=True, begin=0, end=2, convert_to_iter_based=True
    ),
    dict(type='CosineAnnealingLR', T_max=4, by_epoch=True, begin=2, end=6),
]


def stock_config(folder, schedules=STOCK, **kwargs):
    """A run with mmengine's optimizer and schedules."""
    cfg = config(folder, **{'max_epochs': 6, **kwargs})
    cfg.model = dict(type='mmmokd.Line')
    # Groups of their own make mmengine keep one more, which it logs.
    paramwise_cfg = dict(bias_lr_mult=2.0)
    cfg.optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1), paramwise_cfg=paramwise_cfg)
    cfg.param_scheduler = schedules
    for name in ('ema_teacher', 'head_schedule', 'prototype_freeze'):
        cfg.default_hooks.pop(name)
    cfg.custom_hooks = [dict(type='EMAHook')]
    return cfg


class Rates(Hook):
    def before_train(self, runner):
        self.seen = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        rates = [group['lr'] for group in runner.optim_wrapper.param_groups]
        self.seen.append((runner.iter, rates, int(runner.model.average.steps)))
        (ema,) = (hook for hook in runner.hooks if hasattr(hook, 'ema_model'))
        assert ema.ema_model.steps == runner.iter


@pytest.mark.parametrize('done', [1, 3])
@pytest.mark.parametrize('batch_size', [1, 4])
def test_stock_schedules_and_averages(tmp_path, batch_size, done):
    """Rates and updates are, to the bit, those of a run that has the batch from the start."""
    cfg = stock_config(tmp_path / 'first')
    cfg.default_hooks.checkpoint.max_keep_ckpts = -1
    train(cfg)
    whole, resumed = Rates(), Rates()
    train(stock_config(tmp_path / 'whole', batch_size=batch_size), whole)
    checkpoint = str(tmp_path / 'first' / f'epoch_{done}.pth')
    kwargs = dict(batch_size=batch_size, resume=True, load_from=checkpoint)
    train(stock_config(tmp_path / 'resumed', **kwargs), resumed)
    assert len(whole.seen) == 6 * 8 // batch_size
    assert resumed.seen == whole.seen[done * 8 // batch_size :]


def test_plateau_is_refused_with_other_counts_alone(tmp_path):
    schedules = [dict(type='ReduceOnPlateauLR', monitor='loss')]
    train(stock_config(tmp_path / 'first', schedules, max_epochs=1))
    kwargs = dict(max_epochs=2, resume=True, load_from=str(tmp_path / 'first' / 'epoch_1.pth'))
    runner = build_runner(stock_config(tmp_path / 'other', schedules, batch_size=4, **kwargs))
    with (
        short_log(),
        pytest.raises(ValueError, match='ReduceOnPlateauLR depends on past metrics'),
    ):
        runner.train()
