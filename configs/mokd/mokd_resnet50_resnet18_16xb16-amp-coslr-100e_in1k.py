# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Two CNNs: each is what the CNN is in the pair with a ViT.
_base_ = './mokd_resnet50_vit-small-p16_16xb16-amp-coslr-100e_in1k.py'

cnn = _base_.model.branches.cnn
model = dict(
    branches=dict(
        _delete_=True,
        resnet50=dict(cnn, cross_weight=0.1),  # the stronger one
        resnet18=dict(cnn, backbone=dict(cnn.backbone, depth=18), cross_weight=1.0),
    )
)
optim = _base_.optim_wrapper.branches.cnn
optim_wrapper = dict(branches=dict(_delete_=True, resnet50=optim, resnet18=optim))
schedule = _base_.param_scheduler.cnn
param_scheduler = dict(_delete_=True, resnet50=schedule, resnet18=schedule)
