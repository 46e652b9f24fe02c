# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
_base_ = './mokd_resnet50_vit-small-p16.py'

model = dict(
    neck_defaults=dict(out_channels=4096, embed_dims=192),  # for data sets smaller than ImageNet
    branches=dict(cnn=dict(backbone=dict(depth=18)), vit=dict(backbone=dict(arch='deit-tiny'))),
)
