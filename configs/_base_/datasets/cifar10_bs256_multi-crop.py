# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
_base_ = './imagenet_bs16_multi-crop.py'

data_root = 'data/cifar10/'  # downloaded into it if it does not exist
batch_size = 256  # images per step and GPU
num_workers = 8  # per GPU

# channel_order: as the dataset holds them.
load = dict(type='mmmokd.LoadImage', channel_order='rgb', to_rgb=True)
train_pipeline = [
    load,
    dict(
        type='mmmokd.MultiCrop',
        # The global views first. No blur: there is little to blur in 32 pixels. The others are of the
        # same size: small models learned less from views of 16 pixels.
        groups=[
            dict(num=1, size=32, scale=(0.25, 1.0), blur=0.0),
            dict(num=1, size=32, scale=(0.25, 1.0), blur=0.0, solarize=0.2),
            dict(num=2, size=32, scale=(0.25, 1.0), blur=0.0),
        ],
    ),
    dict(type='PackInputs'),
]
val_pipeline = [load, dict(type='PackInputs')]
# type='mmmokd.MultiCropDataPreprocessor', keep_images=True: both images and views are on the GPU.
data_preprocessor = dict(mean=[125.307, 122.961, 113.8575], std=[51.5865, 50.847, 51.255])

dataset = dict(type='CIFAR10', data_root=data_root)
loader = dict(batch_size=batch_size, num_workers=num_workers)
train_dataloader = dict(loader, dataset=dict(dataset, split='train', pipeline=train_pipeline))
val_dataloader = dict(loader, dataset=dict(dataset, split='test', pipeline=val_pipeline))
test_dataloader = val_dataloader
bank_dataloader = dict(loader, dataset=dict(dataset, split='train', pipeline=val_pipeline))
val_cfg = test_cfg = dict(bank_dataloader=bank_dataloader)
