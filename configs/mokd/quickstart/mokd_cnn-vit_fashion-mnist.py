# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# The quick start's pair on Fashion-MNIST: minutes on two CPU cores. So short a run needs other
# settings than a recipe: fewer prototypes, faster teachers, larger rates.
_base_ = [
    '../../_base_/models/mokd_resnet18-w16_vit-nano-s8.py',
    '../../_base_/datasets/fashion-mnist_bs64_multi-crop.py',
    '../../_base_/schedules/mokd_cnn_vit_minutes.py',
    '../../_base_/mokd_runtime.py',
]

train_cfg = dict(max_epochs=5)
# Raw pixels, the baseline, keep the spatial layout, and so do feature maps.
val_cfg = dict(maps=True)
test_cfg = val_cfg

param_scheduler = dict(cnn=[dict(_base_.sgd_lr, warmup=1)], vit=[dict(_base_.adamw_lr, warmup=1)])
default_hooks = dict(
    _base_.fast_hooks,
    logger=dict(interval=39),
    collapse_monitor=dict(interval=39),
)
