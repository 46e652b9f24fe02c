# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# CIFAR-10 on a CPU, to compare methods in minutes: half of the images, narrow models, few steps.
_base_ = [
    '../../_base_/models/mokd_resnet18-w16_vit-nano-s8.py',
    '../../_base_/datasets/cifar10_bs256_multi-crop.py',
    '../../_base_/schedules/mokd_cnn_vit_minutes.py',
    '../../_base_/mokd_runtime.py',
]

model = dict(global_size=32, branches=dict(vit=dict(backbone=dict(img_size=32))))
train_cfg = dict(max_epochs=2)

loader = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(loader, batch_size=64, dataset=dict(indices=25000))
# Accuracies while it trains are of fewer images than those at its end.
val_dataloader = dict(loader, batch_size=250, dataset=dict(indices=2500))
val_cfg = dict(bank_dataloader=dict(loader, batch_size=250, dataset=dict(indices=5000)))
test_dataloader = dict(loader, batch_size=250)
test_cfg = dict(bank_dataloader=dict(loader, batch_size=250, dataset=dict(indices=25000)))

param_scheduler = dict(
    cnn=[dict(_base_.sgd_lr, warmup=0.4)], vit=[dict(_base_.adamw_lr, warmup=0.4)]
)
default_hooks = dict(
    _base_.fast_hooks,
    logger=dict(interval=78),
    collapse_monitor=dict(interval=78),
)
