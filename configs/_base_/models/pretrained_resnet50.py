# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# The pretrained ResNet-50 of a segmentor: read as _base_.pretrained_resnet50 beside a config of mmseg,
# whose own ResNetV1c has a stem of three convolutions; pretraining has the plain one.
pretrained_resnet50 = dict(
    type='ResNet',
    # The initial weights and their branch; model.backbone.init_cfg=None starts from random weights.
    init_cfg=dict(
        type='Pretrained',
        checkpoint='work_dirs/mokd_resnet50_vit-small-p16_16xb16-amp-coslr-100e_in1k/epoch_100.pth',
        prefix='branches.cnn.teacher.backbone.',
    ),
)
