# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# With the regularization of DeiT (arXiv 2012.12877).
_base_ = './vit-small-p16_classifier.py'

model = dict(
    backbone=dict(drop_path_rate=0.1),
    head=dict(
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
    ),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
)
