# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# A run of minutes on a CPU needs other settings than a recipe: faster teachers, larger rates.
train_cfg = dict(by_epoch=True, val_interval=1)

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
    by_epoch=True,
    convert_to_iter_based=True,
)
sgd_lr, adamw_lr = dict(lr, final=1e-3), dict(lr, final=1e-6)
fast_hooks = dict(
    initial_val=dict(type='mmmokd.InitialValHook'),
    ema_teacher=dict(base_momentum=0.99),
    prototype_freeze=dict(freeze_epochs=0),
)
