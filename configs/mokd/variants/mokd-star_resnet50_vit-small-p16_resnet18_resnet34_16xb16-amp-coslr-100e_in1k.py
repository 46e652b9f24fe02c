# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# A star of four: three CNNs learn from the ViT in the center, which learns from itself alone.
_base_ = '../mokd_resnet50_vit-small-p16_resnet18_16xb16-amp-coslr-100e_in1k.py'

small = _base_.model.branches.cnn_small
model = dict(
    branches=dict(
        vit=dict(cross_weight=dict(_delete_=True)),
        cnn=dict(cross_weight=dict(_delete_=True, vit=0.5)),
        cnn_small=dict(cross_weight=dict(_delete_=True, vit=1.0)),
        cnn_medium=dict(small, backbone=dict(small.backbone, depth=34), cross_weight=dict(vit=1.0)),
    )
)
optim_wrapper = dict(branches=dict(cnn_medium=_base_.optim_wrapper.branches.cnn))
param_scheduler = dict(cnn_medium=_base_.param_scheduler.cnn)
