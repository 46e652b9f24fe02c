# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
_base_ = './resnet50_8xb128-linear-coslr-100e_in1k.py'

model = dict(
    backbone=dict(
        depth=18,
        init_cfg=dict(
            checkpoint='work_dirs/mokd_resnet18_vit-small-p16_16xb16-amp-coslr-100e_in1k/'
            'epoch_100.pth'
        ),
    ),
    head=dict(in_channels=512),
)
