# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# DINOv2's ViT-B/14 adapts to the data by low-rank updates (LoRA) of its attention, together with a
# ResNet-18 that learns from it.
_base_ = './mokd-partner_resnet18_timm-vit-base-p14-dinov2_16xb16-amp-coslr-100e_in1k.py'

model = dict(
    branches=dict(
        vit=dict(
            frozen=False,
            lora=dict(rank=8, alpha=8.0, targets=('qkv', 'proj')),
            cross_weight=dict(_delete_=True, cnn=0.1),
        )
    )
)
