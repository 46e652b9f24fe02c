# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# UPerNet, ResNet-50, 80,000 iterations of Cityscapes; 4 GPUs with 2 images each.
# By path: '_base_ = "mmseg::..."' looks for a package named mmsegmentation and does not find it.
_base_ = [
    '../../../_base_/models/pretrained_resnet50.py',
    f'{__import__("mmseg").__path__[0]}/.mim/configs/upernet/upernet_r50_4xb2-80k_cityscapes-512x1024.py',
]
custom_imports = dict(imports=['mmmokd'])

model = dict(pretrained=None, backbone=_base_.pretrained_resnet50)
auto_scale_lr = dict(enable=False, base_batch_size=8)  # --auto-scale-lr: for other batches
# To change the initial weights: model.backbone.init_cfg.checkpoint and .prefix.
# Learning rate: mmseg's, SGD with 0.01 for 8 images, to 1e-4 by a power of 0.9; the same in all
# layers. Batch norm is trained, over all GPUs, and nothing is frozen, as mmseg has it.
