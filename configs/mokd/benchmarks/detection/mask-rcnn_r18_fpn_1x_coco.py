# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Mask R-CNN, ResNet-18 with FPN, 12 epochs of COCO; 8 GPUs with 2 images each.
_base_ = './mask-rcnn_r50_fpn_1x_coco.py'

checkpoint = 'work_dirs/mokd_resnet18_vit-small-p16_16xb16-amp-coslr-100e_in1k/epoch_100.pth'
model = dict(
    backbone=dict(depth=18, init_cfg=dict(checkpoint=checkpoint)),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
# Learning rate: that of ResNet-50.
