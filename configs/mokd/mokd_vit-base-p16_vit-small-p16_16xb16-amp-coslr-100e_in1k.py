# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Two ViTs, searching each other at the smaller one's width; the larger one's tokens are projected.
_base_ = './mokd_resnet50_vit-small-p16_16xb16-amp-coslr-100e_in1k.py'

vit = _base_.model.branches.vit
model = dict(
    branches=dict(
        _delete_=True,
        vit_base=dict(vit, backbone=dict(vit.backbone, arch='deit-base'), cross_weight=0.1),
        vit_small=dict(vit, cross_weight=1.0),  # the weaker one
    )
)
optim = _base_.optim_wrapper.branches.vit
optim_wrapper = dict(branches=dict(_delete_=True, vit_base=optim, vit_small=optim))
schedule = _base_.param_scheduler.vit
param_scheduler = dict(_delete_=True, vit_base=schedule, vit_small=schedule)
