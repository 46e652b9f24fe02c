# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
train_dataloader = dict(
    batch_size=32,  # images per step and GPU
    num_workers=4,  # per GPU
    dataset=dict(
        type='mmmokd.ImageFolder',
        data_root='data/images',
        pipeline=[
            dict(
                type='mmmokd.LoadImage',
                to_rgb=True,
                # (0, 4095) for 12 bits kept in 16; None: the whole range of the images' type.
                value_range=None,
                bands=None,  # (3, 2, 1) for others than the first three of a multi-band TIFF
                max_pixels=178_956_970,  # a larger image counts as unreadable
            ),
            dict(
                type='mmmokd.MultiCrop',
                groups=[  # the global views first
                    dict(num=1, size=224, scale=(0.25, 1.0), blur=1.0),
                    dict(num=1, size=224, scale=(0.25, 1.0), blur=0.1, solarize=0.2),
                    dict(num=8, size=96, scale=(0.05, 0.25), blur=0.5),
                ],
            ),
            dict(type='PackInputs'),
        ],
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    drop_last=True,
)
data_preprocessor = dict(
    type='SelfSupDataPreprocessor',  # mmmokd.MultiCropDataPreprocessor: views are made on the GPU
    mean=[123.675, 116.28, 103.53],  # ImageNet's; near enough for photographs
    std=[58.395, 57.12, 57.375],
    to_rgb=False,  # LoadImage gives RGB
)
