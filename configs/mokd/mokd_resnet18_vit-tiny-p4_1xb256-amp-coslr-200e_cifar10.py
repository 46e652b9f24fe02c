# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# CIFAR-10 on one GPU: 32 x 32 images, a stem without stride, patches of 4 pixels. With the recipe for
# ImageNet, models learned little in their first epochs. Norms in the projector, fewer prototypes that
# learn from the start, sharp targets for m and faster teachers come from runs of narrow models: see
# README.md for what they did there.
_base_ = [
    '../_base_/models/mokd_resnet18_vit-tiny-p16.py',
    '../_base_/datasets/cifar10_bs256_multi-crop.py',
    '../_base_/schedules/mokd_cnn_vit_100e.py',
    '../_base_/mokd_runtime.py',
]

# Settings to change first. Learning rates follow the batch size, schedules the epochs.
train_dataloader = dict(batch_size=256)
train_cfg = dict(max_epochs=200, val_interval=10)

sharper, sharp, soft = (dict(warmup_teacher_temp=t, teacher_temp=t) for t in (0.01, 0.02, 0.07))
projector = dict(norm_cfg=dict(type='BN1d'))
model = dict(
    global_size=32,
    neck_defaults=dict(out_channels=1024),
    branches=dict(
        cnn=dict(
            backbone=dict(type='ResNet_CIFAR'),
            projector=projector,
            cross_weight=0.1,
            heads=dict(sm=sharper, cm=sharp, st=soft, ct=soft),
        ),
        vit=dict(
            backbone=dict(img_size=32, patch_size=4),
            projector=projector,
            cross_weight=1.0,  # the weaker one of the two
            heads=dict(sm=sharp, cm=sharp, st=soft, ct=soft),
        ),
    ),
)
default_hooks = dict(ema_teacher=dict(base_momentum=0.99), prototype_freeze=dict(freeze_epochs=0))
