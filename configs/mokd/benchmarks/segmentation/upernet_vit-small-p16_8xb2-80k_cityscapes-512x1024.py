# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# UPerNet, plain ViT-S/16, 80,000 iterations of Cityscapes; 8 GPUs with 2 images each.
# By path: '_base_ = "mmseg::..."' looks for a package named mmsegmentation and does not find it.
_base_ = [
    '../../../_base_/models/upernet_vit-small-p16.py',
    f'{__import__("mmseg").__path__[0]}/.mim/configs/_base_/datasets/cityscapes.py',
    f'{__import__("mmseg").__path__[0]}/.mim/configs/_base_/default_runtime.py',
    '../../../_base_/schedules/mmseg_vit_160k.py',
]

# The weights to start from, and the branch, are in the first of these files: model.backbone.init_cfg.
model = dict(
    data_preprocessor=dict(size=(512, 1024)),
    decode_head=dict(num_classes=19),
    auxiliary_head=dict(num_classes=19),
    test_cfg=dict(mode='slide', crop_size=(512, 1024), stride=(341, 683)),
)
train_dataloader = dict(batch_size=2)
# Learning rate and layer decay: those of the last file, for 16 images.
max_iters = 80000
warmup, poly = _base_.param_scheduler
param_scheduler = [warmup, dict(poly, end=max_iters)]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 10)
default_hooks = dict(checkpoint=dict(interval=max_iters // 10))
