# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Mask R-CNN, ResNet-50 with FPN, 24 epochs of COCO; 8 GPUs with 2 images each.
_base_ = './mask-rcnn_r50_fpn_1x_coco.py'

train_cfg = dict(max_epochs=24)
# Learning rate: that of 1x, a tenth of it after epochs 16 and 22, as mmdet's 2x.
warmup, steps = _base_.param_scheduler
param_scheduler = [warmup, dict(steps, end=24, milestones=[16, 22])]
