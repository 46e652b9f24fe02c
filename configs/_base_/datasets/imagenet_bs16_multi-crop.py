# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
data_root = 'data/imagenet/'
batch_size = 16  # images per step and GPU
num_workers = 8  # per GPU

train_pipeline = [
    dict(type='mmmokd.LoadImage', to_rgb=True),
    dict(
        type='mmmokd.MultiCrop',
        groups=[  # the global views first
            dict(num=1, size=224, scale=(0.25, 1.0), blur=1.0),
            dict(num=1, size=224, scale=(0.25, 1.0), blur=0.1, solarize=0.2),
            dict(num=8, size=96, scale=(0.05, 0.25), blur=0.5),
        ],
    ),
    dict(type='PackInputs'),
]
val_pipeline = [
    dict(type='mmmokd.LoadImage', to_rgb=True, skip_bad=False),
    dict(type='ResizeEdge', scale=256, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]
data_preprocessor = dict(
    type='SelfSupDataPreprocessor',  # mmmokd.MultiCropDataPreprocessor: views are made on the GPU
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=False,  # LoadImage gives RGB
)

dataset = dict(type='ImageNet', data_root=data_root)
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    dataset=dict(dataset, split='train', pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    drop_last=True,
)
# k-NN top-1 of each branch's teacher; networks=('teacher', 'student') for the students' as well.
val_dataloader = dict(
    batch_size=8 * batch_size,
    num_workers=num_workers,
    dataset=dict(dataset, split='val', pipeline=val_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
)
test_dataloader = val_dataloader
val_cfg = dict(
    type='mmmokd.FeatureValLoop',
    bank_dataloader=dict(
        val_dataloader, dataset=dict(dataset, split='train', pipeline=val_pipeline)
    ),
    networks=('teacher',),
)
test_cfg = dict(val_cfg, type='mmmokd.FeatureTestLoop')
val_evaluator = test_evaluator = dict(type='mmmokd.KNNMetric', k=20)
