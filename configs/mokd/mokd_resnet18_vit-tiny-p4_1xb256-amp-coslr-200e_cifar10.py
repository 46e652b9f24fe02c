# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# CIFAR-10 on one GPU: 32 x 32 images, a stem without stride, patches of 4 pixels.
_base_ = [
    '../_base_/models/mokd_resnet18_vit-tiny-p16.py',
    '../_base_/datasets/cifar10_bs256_multi-crop.py',
    '../_base_/schedules/mokd_cnn_vit_100e.py',
    '../_base_/mokd_runtime.py',
]

# Settings to change first. Learning rates follow the batch size, schedules the epochs.
train_dataloader = dict(batch_size=256)
train_cfg = dict(max_epochs=200, val_interval=10)

model = dict(
    global_size=32,
    branches=dict(
        cnn=dict(backbone=dict(type='ResNet_CIFAR')),
        vit=dict(backbone=dict(img_size=32, patch_size=4)),
    ),
)
