# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""From a checkpoint of MOKD to a detector, through our commands and mmdet's own."""

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

data_root = {data_root!r}
metainfo = dict(classes=('person', 'bicycle', 'car'))
load, annotations, resize, flip, pack = _base_.train_pipeline
train_pipeline = [load, annotations, dict(resize, scale=(96, 96)), flip, pack]
load, resize, annotations, pack = _base_.test_pipeline
test_pipeline = [load, dict(resize, scale=(96, 96)), annotations, pack]
data = dict(data_root=data_root, metainfo=metainfo)
loader = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(**loader, dataset=dict(data, pipeline=train_pipeline))
val_dataloader = dict(**loader, dataset=dict(data, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + '/annotations/instances_val2017.json')
test_evaluator = val_evaluator
model = dict(
    backbone=dict({backbone}, init_cfg=dict(checkpoint={checkpoint!r})),
    neck=dict(in_channels={in_channels}, out_channels=32),
    rpn_head=dict(in_channels=32, feat_channels=32, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=32),
        bbox_head=dict(in_channels=32, fc_out_channels=64, num_classes=3{box_head}),
        mask_roi_extractor=dict(out_channels=32),
        mask_head=dict(in_channels=32, conv_out_channels=32, num_classes=3),
    ),
    train_cfg=dict(rpn_proposal=dict(max_per_img=64), rcnn=dict(sampler=dict(num=32))),
    test_cfg=dict(rpn=dict(max_per_img=64), rcnn=dict(score_thr=0.001)),
)
train_cfg = dict(max_epochs=8, val_interval=8)
optim_wrapper = dict(optimizer=dict(lr={lr}))
param_scheduler = None  # no warm-up: the run is too short
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=8))
randomness = dict(seed=0)
visualizer = dict(name={folder!r})  # of its own for each run, even in one process
"""
CNN = dict(
    base=str(BENCHMARKS / 'detection' / 'mask-rcnn_r18_fpn_1x_coco.py'),
    backbone='base_channels=8, stem_channels=8',
    in_channels=[8, 16, 32, 64],
    box_head='',
    lr=0.01,
)
VIT = dict(
    base=str(BENCHMARKS / 'detection' / 'mask-rcnn_vit-small-p16_sfp_1x_coco.py'),
    backbone='arch=dict(_delete_=True, embed_dims=24, num_layers=4, num_heads=2, '
    'feedforward_channels=48), '
    'img_size=64',
    in_channels=24,
    box_head=', conv_out_channels=32',
    lr=2e-3,
)


@pytest.fixture(scope='module', autouse=True)
def _mmdet():
    need('mmdet', 'mmcv.ops')


@pytest.fixture(scope='module')
def data_root(tmp_path_factory):
    root = tmp_path_factory.mktemp('scenes')
    make_data(root)
    return str(root / 'coco')


def write_config(folder, **settings):
    config = folder / 'detector.py'
    config.write_text(CONFIG.format(folder=str(folder), **settings))
    return config


def test_mask_rcnn_learns_and_is_tested(mokd_checkpoint, data_root, tmp_path, monkeypatch):
    config = write_config(tmp_path, data_root=data_root, checkpoint=str(mokd_checkpoint), **CNN)
    started = remember_start(monkeypatch)
    assert run_here(monkeypatch, 'train.py', config, '--work-dir', tmp_path / 'work') == 0

    assert_started_from(started, mokd_checkpoint, 'cnn', least=60)
    assert_learned(tmp_path / 'work', steps=16)

    out = tmp_path / 'metrics.json'
    checkpoint = tmp_path / 'work' / 'epoch_8.pth'
    # With the file of the start gone: to test, it is not needed.
    options = ('--out', out, '--cfg-options', 'model.backbone.init_cfg.checkpoint=gone.pth')
    arguments = (config, checkpoint, '--work-dir', tmp_path / 'test', *options)
    assert run_here(monkeypatch, 'test.py', *arguments) == 0
    metrics = json.loads(out.read_text())
    assert {'coco/bbox_mAP', 'coco/bbox_mAP_50', 'coco/segm_mAP'} <= set(metrics)
    validated = read_scalars(tmp_path / 'work', 'coco/bbox_mAP')
    assert metrics['coco/bbox_mAP'] == validated[-1]


def test_mmdets_own_tool_trains_a_vit(run, mokd_checkpoint, data_root, tmp_path):
    config = write_config(tmp_path, data_root=data_root, checkpoint=str(mokd_checkpoint), **VIT)
    tool = library_tool('mmdet', 'train.py')
    done = run(sys.executable, tool, config, '--work-dir', tmp_path / 'work', cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    weights = read_checkpoint(mokd_checkpoint)['state_dict']
    count = sum(key.startswith('branches.vit.teacher.backbone.') for key in weights)
    assert f'VisionTransformer: all {count} weights loaded from {mokd_checkpoint}' in done.stdout
    assert_learned(tmp_path / 'work', steps=16)
    assert read_scalars(tmp_path / 'work', 'coco/segm_mAP')
    learned = read_checkpoint(tmp_path / 'work' / 'epoch_8.pth')['optimizer']['param_groups']
    assert min(group['lr'] for group in learned) == pytest.approx(2e-3 * 0.7**5)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ('model.backbone.init_cfg.prefix=branches.none.teacher.backbone.', 'the branches cnn'),
        ('model.backbone.init_cfg.checkpoint=nowhere.pth', 'nowhere.pth does not exist'),
        ('model.backbone.depth=34', 'lacks'),
    ],
)
def test_weights_that_do_not_fit_are_one_message(
    mokd_checkpoint, data_root, tmp_path, monkeypatch, capsys, options, message
):
    config = write_config(tmp_path, data_root=data_root, checkpoint=str(mokd_checkpoint), **CNN)
    arguments = ('--work-dir', tmp_path / 'work', '--cfg-options', options)
    assert run_here(monkeypatch, 'train.py', config, *arguments) == 2
    assert message in capsys.readouterr().err
