# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# A weight for each ordered pair: how much a branch learns from each of the others.
_base_ = '../mokd_resnet50_vit-small-p16_resnet18_16xb16-amp-coslr-100e_in1k.py'

model = dict(
    branches=dict(
        cnn=dict(cross_weight=dict(_delete_=True, vit=1.0, cnn_small=0.1)),
        vit=dict(cross_weight=dict(_delete_=True, cnn=0.1, cnn_small=0.05)),
        cnn_small=dict(cross_weight=dict(_delete_=True, cnn=0.5, vit=1.0)),
    )
)
