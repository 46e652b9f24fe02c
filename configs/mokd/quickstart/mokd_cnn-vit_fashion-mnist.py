# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# The quick start's pair on Fashion-MNIST: minutes on two CPU cores. So short a run needs other
# settings than a recipe: fewer prototypes, faster teachers, larger rates.
_base_ = [
    '../../_base_/models/mokd_resnet18-w16_vit-nano-s8.py',
    '../../_base_/datasets/fashion-mnist_bs64_multi-crop.py',
    '../../_base_/mokd_runtime.py',
]

train_cfg = dict(by_epoch=True, max_epochs=5, val_interval=1)
# Raw pixels, the baseline, keep the spatial layout, and so do feature maps.
val_cfg = dict(maps=True)
test_cfg = val_cfg

optim_wrapper = dict(
    constructor='mmmokd.BranchOptimWrapperConstructor',
    type='OptimWrapper',
    clip_grad=dict(max_norm=3.0, per_parameter=True),
    branches=dict(
        cnn=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4)),
        vit=dict(optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.04)),
    ),
)

lr = dict(
    type='mmmokd.WarmupCosineParamScheduler',
    param_name='lr',
    warmup=1,
    by_epoch=True,
    convert_to_iter_based=True,
)
param_scheduler = dict(cnn=[dict(lr, final=1e-3)], vit=[dict(lr, final=1e-6)])
default_hooks = dict(
    logger=dict(interval=39),
    initial_val=dict(type='mmmokd.InitialValHook'),
    ema_teacher=dict(base_momentum=0.99),
    prototype_freeze=dict(freeze_epochs=0),
    collapse_monitor=dict(interval=39),
)
