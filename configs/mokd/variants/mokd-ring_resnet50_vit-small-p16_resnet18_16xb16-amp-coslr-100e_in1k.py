# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# A ring: ResNet-50 learns from the ViT, the ViT from ResNet-18, ResNet-18 from ResNet-50.
_base_ = '../mokd_resnet50_vit-small-p16_resnet18_16xb16-amp-coslr-100e_in1k.py'

model = dict(
    branches=dict(
        cnn=dict(cross_weight=dict(_delete_=True, vit=1.0)),
        vit=dict(cross_weight=dict(_delete_=True, cnn_small=0.1)),
        cnn_small=dict(cross_weight=dict(_delete_=True, cnn=1.0)),
    )
)
