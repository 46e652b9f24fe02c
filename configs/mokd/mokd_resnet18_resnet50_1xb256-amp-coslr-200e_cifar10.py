# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Two CNNs on CIFAR-10: each is what the CNN is in the pair with a ViT.
_base_ = './mokd_resnet18_vit-tiny-p4_1xb256-amp-coslr-200e_cifar10.py'

cnn = _base_.model.branches.cnn
model = dict(
    branches=dict(
        _delete_=True,
        resnet18=dict(cnn, cross_weight=1.0),
        resnet50=dict(cnn, backbone=dict(cnn.backbone, depth=50), cross_weight=0.1),  # the stronger
    )
)
optim = _base_.optim_wrapper.branches.cnn
optim_wrapper = dict(branches=dict(_delete_=True, resnet18=optim, resnet50=optim))
schedule = _base_.param_scheduler.cnn
param_scheduler = dict(_delete_=True, resnet18=schedule, resnet50=schedule)
