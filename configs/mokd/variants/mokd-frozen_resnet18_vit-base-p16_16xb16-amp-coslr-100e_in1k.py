# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# A ResNet-18 learns from a ViT-B/16 that an earlier run trained and that stays as it is: one forward
# pass without gradient, no optimizer, no second network.
_base_ = '../mokd_resnet50_vit-base-p16_16xb16-amp-coslr-100e_in1k.py'

# Whole: backbone, projector and search head, whose prototypes are the targets.
partner = dict(
    type='Pretrained',
    checkpoint='work_dirs/mokd_resnet50_vit-base-p16_16xb16-amp-coslr-100e_in1k/epoch_100.pth',
    prefix='branches.vit.teacher.',
)
model = dict(
    branches=dict(
        cnn=dict(backbone=dict(depth=18)),
        vit=dict(frozen=True, init_cfg=partner, cross_weight=None),
    )
)
optim_wrapper = dict(branches=dict(_delete_=True, cnn=_base_.optim_wrapper.branches.cnn))
param_scheduler = dict(_delete_=True, cnn=_base_.param_scheduler.cnn)
