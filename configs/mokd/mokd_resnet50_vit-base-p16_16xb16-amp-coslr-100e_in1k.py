# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
_base_ = './mokd_resnet50_vit-small-p16_16xb16-amp-coslr-100e_in1k.py'

model = dict(
    neck_defaults=dict(embed_dims=768),  # the search heads have the width of the ViT
    branches=dict(vit=dict(backbone=dict(arch='deit-base'))),
)
