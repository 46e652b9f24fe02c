# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
_base_ = './mokd_resnet50_vit-small-p16.py'

num_prototypes = 4096  # for data sets that are not of ImageNet's size
cnn = dict(in_channels=512, out_channels=num_prototypes)
vit = dict(in_channels=192, out_channels=num_prototypes)
model = dict(
    branches=dict(
        cnn=dict(
            backbone=dict(depth=18),
            projector=cnn,
            search_head=dict(**cnn, embed_dims=vit['in_channels']),
        ),
        vit=dict(
            backbone=dict(arch='deit-tiny'),
            projector=vit,
            search_head=dict(**vit, embed_dims=vit['in_channels']),
        ),
    )
)
