# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Linear evaluation of ResNet-50 on ImageNet: the pooled feature of the frozen backbone.
_base_ = [
    '../../../_base_/models/resnet50_classifier.py',
    '../../../_base_/datasets/imagenet_bs128_224.py',
    '../../../_base_/schedules/linear_sgd_coslr_100e.py',
    '../../../_base_/default_runtime.py',
]

model = dict(backbone=dict(frozen_stages=4))  # all of it; including the statistics of batch norm
