# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# UPerNet, plain ViT-B/16, 20,000 iterations of VOC 2012 + aug; 8 GPUs with 2 images each.
_base_ = './upernet_vit-small-p16_8xb2-20k_voc12aug-512x512.py'

checkpoint = 'work_dirs/mokd_resnet50_vit-base-p16_16xb16-amp-coslr-100e_in1k/epoch_100.pth'
model = dict(
    backbone=dict(arch='deit-base', init_cfg=dict(checkpoint=checkpoint)),
    neck=dict(embed_dim=768),
    decode_head=dict(in_channels=[768] * 4),
    auxiliary_head=dict(in_channels=768),
)
# Learning rate and layer decay: MAE's for ViT-B, as in the config of ViT-S.
