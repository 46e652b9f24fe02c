# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# CIFAR-10 on a CPU, to compare methods in minutes: half of the images, narrow models, few steps.
_base_ = [
    '../../_base_/models/mokd_resnet18-w16_vit-nano-s8.py',
    '../../_base_/datasets/cifar10_bs256_multi-crop.py',
    '../../_base_/mokd_runtime.py',
]

model = dict(global_size=32, branches=dict(vit=dict(backbone=dict(img_size=32))))
train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=1)

loader = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(loader, batch_size=64, dataset=dict(indices=25000))
# Accuracies while it trains are of fewer images than those at its end.
val_dataloader = dict(loader, batch_size=250, dataset=dict(indices=2500))
val_cfg = dict(bank_dataloader=dict(loader, batch_size=250, dataset=dict(indices=5000)))
test_dataloader = dict(loader, batch_size=250)
test_cfg = dict(bank_dataloader=dict(loader, batch_size=250, dataset=dict(indices=25000)))

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
    warmup=0.4,
    by_epoch=True,
    convert_to_iter_based=True,
)
param_scheduler = dict(cnn=[dict(lr, final=1e-3)], vit=[dict(lr, final=1e-6)])
default_hooks = dict(
    logger=dict(interval=78),
    initial_val=dict(type='mmmokd.InitialValHook'),
    ema_teacher=dict(base_momentum=0.99),
    prototype_freeze=dict(freeze_epochs=0),
    collapse_monitor=dict(interval=78),
)
