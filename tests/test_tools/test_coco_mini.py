# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Detection and segmentation on photographs, where MMMOKD_COCO_MINI names a folder of them.

The folder is laid out as COCO 2017, and small: train2017/, val2017/ and
annotations/instances_{train,val}2017.json for the detector; for the segmentor also
semantic/{train,val}2017/*.png, maps of category ids, and semantic/classes.json.
"""

import json
import os
from pathlib import Path

import pytest
from transfer_testing import (
    BENCHMARKS,
    assert_learned,
    assert_started_from,
    need,
    remember_start,
    run_here,
)

ROOT = os.environ.get('MMMOKD_COCO_MINI')
pytestmark = pytest.mark.skipif(not ROOT, reason='MMMOKD_COCO_MINI names no folder')

DETECTOR = """
_base_ = {base!r}

load, annotations, resize, flip, pack = _base_.train_pipeline
train_pipeline = [load, annotations, dict(resize, scale=(128, 128)), flip, pack]
load, resize, annotations, pack = _base_.test_pipeline
test_pipeline = [load, dict(resize, scale=(128, 128)), annotations, pack]
loader = dict(num_workers=0, persistent_workers=False)
data = dict(data_root={root!r})
train_dataloader = dict(
    **loader, batch_size=4, dataset=dict(data, pipeline=train_pipeline, indices=48)
)
val_dataloader = dict(**loader, dataset=dict(data, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file={root!r} + '/annotations/instances_val2017.json')
test_evaluator = val_evaluator
model = dict(
    backbone=dict(base_channels=8, stem_channels=8, init_cfg=dict(checkpoint={checkpoint!r})),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=32),
    rpn_head=dict(in_channels=32, feat_channels=32, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=32),
        bbox_head=dict(in_channels=32, fc_out_channels=64),
        mask_roi_extractor=dict(out_channels=32),
        mask_head=dict(in_channels=32, conv_out_channels=32),
    ),
    test_cfg=dict(rpn=dict(max_per_img=64), rcnn=dict(score_thr=0.001)),
)
train_cfg = dict(max_epochs=2, val_interval=2)
optim_wrapper = dict(optimizer=dict(lr=0.01))
param_scheduler = None
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=2))
visualizer = dict(name={folder!r})
randomness = dict(seed=0)
"""
SEGMENTOR = """
_base_ = {base!r}

load, annotations, resize, crop, flip, distort, pack = _base_.train_pipeline
train_pipeline = [
    load,
    annotations,
    dict(resize, scale=(192, 144)),
    dict(crop, crop_size=(128, 128)),
    flip,
    dict(type='Pad', size=(128, 128)),
    pack,
]
load, resize, annotations, pack = _base_.test_pipeline
test_pipeline = [load, dict(resize, scale=(192, 144)), annotations, pack]


def dataset(split, pipeline):
    return dict(
        _delete_=True,
        type='BaseSegDataset',
        metainfo=dict(classes={maps!r} + '/classes.txt'),
        data_prefix=dict(
            img_path={root!r} + f'/{{split}}2017', seg_map_path={maps!r} + f'/{{split}}2017'
        ),
        pipeline=pipeline,
    )


loader = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(**loader, batch_size=4, dataset=dataset('train', train_pipeline))
val_dataloader = dict(**loader, dataset=dataset('val', test_pipeline))
test_dataloader = val_dataloader
head = dict(num_classes={num_classes})
model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(
        depth=18, base_channels=8, stem_channels=8, init_cfg=dict(checkpoint={checkpoint!r})
    ),
    decode_head=dict(head, in_channels=[8, 16, 32, 64], channels=32),
    auxiliary_head=dict(head, in_channels=32, channels=16),
)
train_cfg = dict(max_iters=48, val_interval=48)
optim_wrapper = dict(optimizer=dict(lr=0.03))
param_scheduler = None
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=48))
visualizer = dict(name={folder!r})
randomness = dict(seed=0)
del dataset, head, loader
"""


def train_and_test(monkeypatch, tmp_path, text, last, mokd_checkpoint, steps, **settings):
    """Runs both of our commands; returns the metrics."""
    config = tmp_path / 'config.py'
    settings.update(checkpoint=str(mokd_checkpoint), root=str(ROOT), folder=str(tmp_path))
    config.write_text(text.format(**settings))
    started = remember_start(monkeypatch)
    work_dir, out = tmp_path / 'work', tmp_path / 'metrics.json'
    assert run_here(monkeypatch, 'train.py', config, '--work-dir', work_dir) == 0
    assert_started_from(started, mokd_checkpoint, 'cnn', least=60)
    assert_learned(work_dir, steps=steps, share=0.97)
    arguments = (config, work_dir / last, '--work-dir', tmp_path / 'test', '--out', out)
    assert run_here(monkeypatch, 'test.py', *arguments) == 0
    return json.loads(out.read_text())


def test_mask_rcnn(mokd_checkpoint, tmp_path, monkeypatch):
    need('mmdet', 'mmcv.ops')
    metrics = train_and_test(
        *(monkeypatch, tmp_path, DETECTOR, 'epoch_2.pth', mokd_checkpoint),
        steps=24,
        base=str(BENCHMARKS / 'detection' / 'mask-rcnn_r18_fpn_1x_coco.py'),
    )
    assert 0 <= metrics['coco/bbox_mAP'] <= 1 and 0 <= metrics['coco/segm_mAP'] <= 1


def test_upernet(mokd_checkpoint, tmp_path, monkeypatch):
    need('mmseg')
    maps = tmp_path / 'maps'
    semantic = Path(ROOT) / 'semantic'
    converter = 'dataset_converters/contiguous_labels.py'
    assert run_here(monkeypatch, converter, semantic, semantic / 'classes.json', maps) == 0
    metrics = train_and_test(
        *(monkeypatch, tmp_path, SEGMENTOR, 'iter_48.pth', mokd_checkpoint),
        steps=48,
        base=str(BENCHMARKS / 'segmentation' / 'upernet_r50_4xb2-80k_cityscapes-512x1024.py'),
        maps=str(maps),
        num_classes=len((maps / 'classes.txt').read_text().splitlines()),
    )
    assert 0 < metrics['mIoU'] <= 100
