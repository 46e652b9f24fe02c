# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Crops and flips, as in linear evaluation. Other sets take the place of ImageNet by type, data_root
# and split alone.
data_root = 'data/imagenet/'
batch_size = 128  # images per step and GPU
num_workers = 8  # per GPU

load = dict(type='mmmokd.LoadImage', channel_order='rgb')  # of sets that hold arrays, as CIFAR
pack = dict(type='PackInputs')
train_pipeline = [
    load,
    dict(type='RandomResizedCrop', scale=224, backend='pillow'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    pack,
]
test_pipeline = [
    dict(load, skip_bad=False),
    dict(type='ResizeEdge', scale=256, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=224),
    pack,
]
data_preprocessor = dict(
    num_classes=1000,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    dataset=dict(type='ImageNet', data_root=data_root, split='train', pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
)
val_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    dataset=dict(type='ImageNet', data_root=data_root, split='val', pipeline=test_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
)
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(type='Accuracy', topk=(1, 5))
val_cfg = test_cfg = dict()
