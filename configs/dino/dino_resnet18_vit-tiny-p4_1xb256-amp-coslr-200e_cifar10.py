# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Each model of MOKD's config alone: two in one run, which learn nothing from each other.
_base_ = '../mokd/mokd_resnet18_vit-tiny-p4_1xb256-amp-coslr-200e_cifar10.py'

model = dict(
    type='mmmokd.DINO',
    neck_defaults=dict(_delete_=True, out_channels=_base_.model.neck_defaults.out_channels),
    branches=dict(
        cnn=dict(
            cross_weight=None, heads=dict(_delete_=True, sm=_base_.model.branches.cnn.heads.sm)
        ),
        vit=dict(
            cross_weight=None, heads=dict(_delete_=True, sm=_base_.model.branches.vit.heads.sm)
        ),
    ),
)
# There is no search head to have settings of its own.
optim_wrapper = dict(branches=dict(cnn=dict(parts=None)))
param_scheduler = dict(cnn=[_base_.param_scheduler.cnn[0]])
