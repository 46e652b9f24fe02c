# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Labels in place of L_sm and L_st: each branch learns from the classes and from the other's teacher.
_base_ = '../mokd_resnet18_vit-tiny-p4_1xb256-amp-coslr-200e_cifar10.py'

heads = dict(
    sm=None,
    st=None,
    ce=dict(
        type='mmmokd.ClassificationHead',
        num_classes=10,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
)
model = dict(branches=dict(cnn=dict(heads=heads), vit=dict(heads=heads)))
