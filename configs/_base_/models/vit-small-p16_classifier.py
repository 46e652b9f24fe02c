# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mmmokd.VisionTransformer',
        arch='deit-small',
        img_size=224,
        patch_size=16,
        out_type='cls_token',
        # Initial weights; model.backbone.init_cfg=None: random.
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/mokd_resnet50_vit-small-p16_16xb16-amp-coslr-100e_in1k/'
            'epoch_100.pth',
            prefix='branches.vit.teacher.backbone.',
        ),
    ),
    head=dict(type='LinearClsHead', num_classes=1000, in_channels=384),
)
