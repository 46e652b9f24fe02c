# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Mask R-CNN, plain ViT-B/16 with a simple feature pyramid, 12 epochs of COCO; 8 GPUs with 2
# images each.
_base_ = './mask-rcnn_vit-small-p16_sfp_1x_coco.py'

checkpoint = 'work_dirs/mokd_resnet50_vit-base-p16_16xb16-amp-coslr-100e_in1k/epoch_100.pth'
model = dict(
    backbone=dict(arch='deit-base', init_cfg=dict(checkpoint=checkpoint)),
    neck=dict(in_channels=768),
)
# Learning rate, layer decay and drop path: ViTDet's for ViT-B, as in the config of ViT-S.
