# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Runs whose views the device makes."""

import pytest
import torch
from array_dataset import PIXELS
from mmengine.hooks import Hook
from mokd_testing import runner_cfg, train

from mmmokd.utils.errors import ConfigError

GROUPS = [dict(num=2, size=32, scale=(0.5, 1.0)), dict(num=2, size=24, scale=(0.25, 0.5))]
LOAD = dict(type='mmmokd.LoadImage', channel_order='rgb', to_rgb=True)
SENT = [LOAD, dict(type='mmmokd.FitCanvas', size=8), dict(type='PackInputs')]


class Views(Hook):
    """Keeps a number of every view of every iteration, and the labels."""

    def before_train(self, runner):
        self.seen, self.labels = [], []
        runner.model.data_preprocessor.register_forward_hook(self.look)

    def look(self, module, args, output):
        self.seen.append([view.sum().item() for view in output['inputs']])
        self.labels.append([sample.gt_label.item() for sample in output['data_samples']])


def config(folder, keep=True, **kwargs):
    preprocessor = dict(type='mmmokd.MultiCropDataPreprocessor', groups=GROUPS, keep_images=keep)
    cfg = runner_cfg(folder, branches=('vit',), batch_size=4, max_epochs=2, **kwargs)
    cfg.model.data_preprocessor = dict(preprocessor, mean=[120.0], std=[60.0])
    dataset = dict(type='mmmokd.Arrays', pipeline=[LOAD] if keep else SENT)
    if keep:
        dataset = dict(type='mmmokd.IndexedImages', dataset=dataset)
    cfg.train_dataloader.dataset = dataset
    cfg.train_dataloader.sampler.shuffle = True
    cfg.default_hooks.update(
        data_health=dict(type='mmmokd.DataHealthHook'),
        device_views=dict(type='mmmokd.DeviceViewsHook'),
        input_check=dict(type='mmmokd.InputCheckHook'),
        checkpoint=dict(type='CheckpointHook', interval=1, by_epoch=True),
    )
    return cfg


def views_of(cfg):
    views = Views()
    runner = train(cfg, views)
    return views, runner


def test_kept_images_train_as_sent_ones_and_resumed_runs_as_whole_ones(tmp_path):
    whole, runner = views_of(config(tmp_path / 'kept'))
    assert len(whole.seen) == 6 and len({tuple(views) for views in whole.seen}) == 6
    assert runner.model.data_preprocessor.bank.mib == PIXELS.nbytes / 2**20
    assert sorted(sum(whole.labels[:3], [])) == sorted([0, 1, 2] * 4)
    sent, _ = views_of(config(tmp_path / 'sent', keep=None))
    assert sent.seen == whole.seen and sent.labels == whole.labels
    checkpoint = str(tmp_path / 'kept' / 'epoch_1.pth')
    resumed, again = views_of(config(tmp_path / 'resumed', resume=True, load_from=checkpoint))
    assert resumed.seen == whole.seen[3:]
    pairs = zip(again.model.state_dict().items(), runner.model.state_dict().items(), strict=True)
    assert all(name == other and torch.equal(a, b) for (name, a), (other, b) in pairs)


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('model.data_preprocessor.keep_images', False, 'but got IndexedImages and Multi.*=False'),
        ('model.data_preprocessor', dict(type='BaseDataPreprocessor'), 'keep_images=False'),
        (
            'train_dataloader.dataset.dataset.pipeline',
            [dict(LOAD, to_rgb=False)],
            'needs RGB images',
        ),
        (
            'train_dataloader.dataset',
            dict(_delete_=True, type='mmmokd.Arrays', pipeline=[LOAD]),
            'but got Arrays and .*keep_images=True',
        ),
    ],
)
def test_halves_that_do_not_fit(tmp_path, key, value, message):
    cfg = config(tmp_path)
    if key == 'model.data_preprocessor':
        cfg.model.data_preprocessor = dict(value, type='mmengine.BaseDataPreprocessor')
    else:
        cfg.merge_from_dict({key: value})
    with pytest.raises(ConfigError, match=message):
        train(cfg)
