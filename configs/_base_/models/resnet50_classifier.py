# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'mmpretrain::_base_/models/resnet50.py'

model = dict(
    backbone=dict(
        # Initial weights; model.backbone.init_cfg=None: random.
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/mokd_resnet50_vit-small-p16_16xb16-amp-coslr-100e_in1k/'
            'epoch_100.pth',
            prefix='branches.cnn.teacher.backbone.',
        )
    )
)
