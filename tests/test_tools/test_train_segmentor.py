# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""From a checkpoint of MOKD to a segmentor, through our commands and mmseg's own."""

import json
import sys

import pytest
from transfer_testing import (
    BENCHMARKS,
    assert_learned,
    assert_started_from,
    library_tool,
    make_data,
    need,
    read_scalars,
    remember_start,
    run_here,
)

from mmmokd.weights import read_checkpoint

CONFIG = """
_base_ = {base!r}

loader = dict(num_workers=0, persistent_workers=False)
load, annotations, resize, crop, flip, distort, pack = _base_.train_pipeline
crop.crop_size = (64, 64)
train_pipeline = [load, annotations, dict(resize, scale=(96, 96)), crop, flip, pack]
load, resize, annotations, pack = _base_.test_pipeline
test_pipeline = [load, dict(resize, scale=(96, 96)), annotations, pack]
train_dataloader = dict(
    **loader, batch_size=2, dataset=dict(data_root={data_root!r}, pipeline=train_pipeline)
)
val_dataloader = dict(**loader, dataset=dict(data_root={data_root!r}, pipeline=test_pipeline))
test_dataloader = val_dataloader
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict({backbone}, init_cfg=dict(checkpoint={checkpoint!r})),
    decode_head=dict(in_channels={in_channels}, channels=32),
    auxiliary_head=dict(in_channels={in_channels}[2], channels=16),
    {more}
)
train_cfg = dict(max_iters=24, val_interval=24)
optim_wrapper = dict(optimizer=dict(lr={lr}))
param_scheduler = None  # no warm-up: the run is too short
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=24))
randomness = dict(seed=0)
visualizer = dict(name={folder!r})  # of its own for each run, even in one process
"""
SEGMENTATION = BENCHMARKS / 'segmentation'
CNN = dict(
    base=str(SEGMENTATION / 'upernet_r50_4xb2-80k_cityscapes-512x1024.py'),
    backbone='depth=18, base_channels=8, stem_channels=8',
    in_channels=[8, 16, 32, 64],
    lr=0.02,
    more='',
)
VIT = dict(
    base=str(SEGMENTATION / 'upernet_vit-small-p16_8xb2-80k_cityscapes-512x1024.py'),
    backbone='arch=dict(_delete_=True, embed_dims=24, num_layers=4, num_heads=2, '
    'feedforward_channels=48), '
    'img_size=64, out_indices=(0, 1, 2, 3)',
    in_channels=[24] * 4,
    lr=5e-3,
    more='neck=dict(embed_dim=24), test_cfg=dict(crop_size=(64, 64), stride=(32, 32)),',
)


@pytest.fixture(scope='module', autouse=True)
def _mmseg():
    need('mmseg')


@pytest.fixture(scope='module')
def data_root(tmp_path_factory):
    root = tmp_path_factory.mktemp('scenes')
    make_data(root)
    return str(root / 'cityscapes')


def write_config(folder, **settings):
    config = folder / 'segmentor.py'
    config.write_text(CONFIG.format(folder=str(folder), **settings))
    return config


def test_upernet_learns_and_is_tested(mokd_checkpoint, data_root, tmp_path, monkeypatch):
    config = write_config(tmp_path, data_root=data_root, checkpoint=str(mokd_checkpoint), **CNN)
    started = remember_start(monkeypatch)
    assert run_here(monkeypatch, 'train.py', config, '--work-dir', tmp_path / 'work') == 0
    assert_started_from(started, mokd_checkpoint, 'cnn', least=60)
    assert_learned(tmp_path / 'work', steps=24)

    out = tmp_path / 'metrics.json'
    checkpoint = tmp_path / 'work' / 'iter_24.pth'
    # With the file of the start gone: to test, it is not needed.
    options = ('--out', out, '--cfg-options', 'model.backbone.init_cfg.checkpoint=gone.pth')
    arguments = (config, checkpoint, '--work-dir', tmp_path / 'test', *options)
    assert run_here(monkeypatch, 'test.py', *arguments) == 0
    metrics = json.loads(out.read_text())
    assert 0 < metrics['mIoU'] <= 100
    assert [metrics['mIoU']] == read_scalars(tmp_path / 'work', 'mIoU')


def test_mmsegs_own_tool_trains_a_vit(run, mokd_checkpoint, data_root, tmp_path):
    config = write_config(tmp_path, data_root=data_root, checkpoint=str(mokd_checkpoint), **VIT)
    tool = library_tool('mmseg', 'train.py')
    done = run(sys.executable, tool, config, '--work-dir', tmp_path / 'work', cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    weights = read_checkpoint(mokd_checkpoint)['state_dict']
    count = sum(key.startswith('branches.vit.teacher.backbone.') for key in weights)
    assert f'VisionTransformer: all {count} weights loaded from {mokd_checkpoint}' in done.stdout
    assert_learned(tmp_path / 'work', steps=24)
    assert read_scalars(tmp_path / 'work', 'mIoU')
    groups = read_checkpoint(tmp_path / 'work' / 'iter_24.pth')['optimizer']['param_groups']
    assert min(group['lr'] for group in groups) == pytest.approx(5e-3 * 0.65**5)
