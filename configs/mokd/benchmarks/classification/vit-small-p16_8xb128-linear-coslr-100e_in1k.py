# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Linear evaluation of ViT-S/16 on ImageNet: the class tokens of the frozen backbone's last four blocks,
# each after the final LayerNorm, side by side.
_base_ = [
    '../../../_base_/models/vit-small-p16_classifier.py',
    '../../../_base_/datasets/imagenet_bs128_224.py',
    '../../../_base_/schedules/linear_sgd_coslr_100e.py',
    '../../../_base_/default_runtime.py',
]

model = dict(
    backbone=dict(frozen_stages=12, out_indices=[8, 9, 10, 11], norm_outputs=True),
    neck=dict(type='mmmokd.ConcatFeatures'),
    head=dict(in_channels=4 * 384),
)
optim_wrapper = dict(optimizer=dict(lr=0.001))
