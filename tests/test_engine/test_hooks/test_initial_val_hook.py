# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import json

import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mokd_testing import short_log
from torch import nn
from torch.utils.data import Dataset

from mmmokd.engine.hooks import InitialValHook


class Ones(Dataset):
    metainfo = dict()

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return dict(inputs=torch.ones(1))


class OneWeight(BaseModel):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        assert self.training is (mode == 'loss')
        return dict(loss=self.weight) if mode == 'loss' else [self.weight]


class Weight(BaseMetric):
    """The weight that the validated model has."""

    def process(self, data_batch, data_samples):
        self.results.append(data_samples[0].item())

    def compute_metrics(self, results):
        return dict(acc=sum(results) / len(results))


class Prepared(Hook):
    """A hook that has to be through with its preparation when the validation comes."""

    def before_train(self, runner):
        self.ready = True

    def before_val(self, runner):
        assert self.ready


def run(folder, validate=True, **kwargs):
    loader = dict(dataset=Ones(), batch_size=2, sampler=dict(type='DefaultSampler', shuffle=False))
    validation = dict(val_dataloader=loader, val_cfg=dict(), val_evaluator=dict(type=Weight))
    settings = dict(
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=2, val_interval=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.125)),
        default_hooks=dict(
            initial_val=dict(type='mmmokd.InitialValHook'),
            checkpoint=dict(type='CheckpointHook', save_best='acc', rule='less'),
        ),
        custom_hooks=[Prepared()],
    )
    settings.update(validation if validate else {})
    settings.update(kwargs)
    with short_log():
        runner = Runner(
            model=OneWeight(), work_dir=str(folder), experiment_name=folder.name, **settings
        )
    runner.train()
    return runner


def validations(folder):
    """(epoch, value) of every validation in the log."""
    (file,) = folder.glob('*/vis_data/scalars.json')
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    return [(entry['step'], entry['acc']) for entry in entries if 'acc' in entry]


def test_untrained_model_is_validated_first(tmp_path):
    runner = run(tmp_path / 'run')
    # Two steps of 0.125 an epoch.
    assert validations(tmp_path / 'run') == [(0, 1.0), (1, 0.75), (2, 0.5)]
    assert runner.message_hub.get_info('best_score') == 0.5
    names = [type(hook).__name__ for hook in runner.hooks]
    assert names.index('InitialValHook') == len(names) - 1


def test_training_is_not_changed(tmp_path):
    with_hook = run(tmp_path / 'a')
    without = run(tmp_path / 'b', default_hooks=dict(checkpoint=None))
    assert with_hook.model.weight.item() == without.model.weight.item() == 0.5


def test_resumed_run_is_not_validated_again(tmp_path):
    run(tmp_path / 'first')
    run(
        tmp_path / 'second',
        train_cfg=dict(by_epoch=True, max_epochs=3, val_interval=1),
        load_from=str(tmp_path / 'first' / 'epoch_2.pth'),
        resume=True,
    )
    assert validations(tmp_path / 'second') == [(3, 0.25)]


def test_run_without_validation(tmp_path):
    runner = run(
        tmp_path / 'bare',
        validate=False,
        default_hooks=dict(checkpoint=None, initial_val=InitialValHook()),
    )
    assert runner.model.weight.item() == 0.5
