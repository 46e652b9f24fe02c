# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
data_root = 'work_dirs/quickstart/data/fashion_mnist/'  # tools/quickstart.sh unpacks it there

load = dict(type='mmmokd.LoadImage')
# Gray images: brightness and contrast are all the color there is. They change a lot, or a view's
# brightness would be all that models learn. No flips: shoes all point one way.
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
    type='SelfSupDataPreprocessor', mean=[72.94] * 3, std=[90.02] * 3, to_rgb=True
)


def dataloader(split, pipeline, batch_size, num_workers=0, shuffle=False, **kwargs):
    return dict(
        batch_size=batch_size,
        num_workers=num_workers,
        dataset=dict(
            type='FashionMNIST',
            data_root=data_root,
            split=split,
            test_mode=split == 'test',  # it is this by which mmpretrain chooses the files
            pipeline=pipeline,
        ),
        sampler=dict(type='DefaultSampler', shuffle=shuffle),
        collate_fn=dict(type='default_collate'),
        **kwargs,
    )


train_dataloader = dataloader(
    *('train', train_pipeline, 64, 1),
    shuffle=True,
    drop_last=True,
)
val_dataloader = test_dataloader = dataloader('test', val_pipeline, 250)
val_cfg = dict(
    type='mmmokd.FeatureValLoop',
    bank_dataloader=dataloader('train', val_pipeline, 250),
)
test_cfg = dict(val_cfg, type='mmmokd.FeatureTestLoop')
val_evaluator = test_evaluator = dict(type='mmmokd.KNNMetric', k=20)
# Used above only; deleted, so that to override them from outside is an error.
del data_root, load, view, train_pipeline, val_pipeline
