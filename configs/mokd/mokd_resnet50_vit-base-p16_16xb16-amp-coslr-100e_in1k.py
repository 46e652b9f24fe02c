# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
_base_ = './mokd_resnet50_vit-small-p16_16xb16-amp-coslr-100e_in1k.py'

channels = 768  # of the ViT; the search heads have its width
model = dict(
    branches=dict(
        cnn=dict(search_head=dict(embed_dims=channels)),
        vit=dict(
            backbone=dict(arch='deit-base'),
            projector=dict(in_channels=channels),
            search_head=dict(in_channels=channels, embed_dims=channels),
        ),
    )
)
