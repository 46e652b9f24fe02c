# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# DINO (arXiv 2104.14294) with the settings of MOKD's ViT, not those of DINO's own recipe.
_base_ = '../mokd/mokd_resnet50_vit-small-p16_16xb16-amp-coslr-100e_in1k.py'

model = dict(
    type='mmmokd.DINO',
    neck_defaults=dict(_delete_=True, out_channels=_base_.model.neck_defaults.out_channels),
    branches=dict(cnn=None, vit=dict(cross_weight=None)),
)
optim_wrapper = dict(branches=dict(_delete_=True, vit=_base_.optim_wrapper.branches.vit))
param_scheduler = dict(_delete_=True, vit=_base_.param_scheduler.vit)
