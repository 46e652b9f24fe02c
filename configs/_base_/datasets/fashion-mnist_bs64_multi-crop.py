# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
data_root = 'work_dirs/quickstart/data/fashion_mnist/'  # tools/quickstart.sh unpacks it there

load = dict(type='mmmokd.LoadImage', to_rgb=True)
# Grayscale images: the only color augmentation is brightness and contrast. It is strong, or a view's
# brightness would be all that models learn. No flips: all shoes point in one direction.
view = dict(
    flip=0.0, grayscale=0.0, blur=0.0, color_jitter=(0.8, 0.8, 0.0, 0.0), color_jitter_prob=1.0
)
train_pipeline = [
    load,
    dict(
        type='mmmokd.MultiCrop',
        groups=[  # the global views first
            dict(view, num=2, size=28, scale=(0.5, 1.0)),
            dict(view, num=2, size=21, scale=(0.25, 0.5)),
        ],
    ),
    dict(type='PackInputs'),
]
val_pipeline = [load, dict(type='PackInputs')]
data_preprocessor = dict(
    type='SelfSupDataPreprocessor', mean=[72.94] * 3, std=[90.02] * 3, to_rgb=False
)

dataset = dict(type='FashionMNIST', data_root=data_root)
train_set = dict(dataset, split='train', test_mode=False)
test_set = dict(dataset, split='test', test_mode=True)  # by which mmpretrain chooses the files
train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    dataset=dict(train_set, pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    drop_last=True,
)
val_dataloader = dict(
    batch_size=250,
    num_workers=0,
    dataset=dict(test_set, pipeline=val_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
)
test_dataloader = val_dataloader
bank_dataloader = dict(val_dataloader, dataset=dict(train_set, pipeline=val_pipeline))
val_cfg = dict(type='mmmokd.FeatureValLoop', bank_dataloader=bank_dataloader)
test_cfg = dict(val_cfg, type='mmmokd.FeatureTestLoop')
val_evaluator = test_evaluator = dict(type='mmmokd.KNNMetric', k=20)
