# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# BYOL (arXiv 2006.07733) in place of L_sm. L_cm trains the projectors, L_st anchors L_ct. Neck,
# predictor and loss are mmpretrain's.
_base_ = '../mokd_resnet18_vit-tiny-p4_1xb256-amp-coslr-200e_cifar10.py'

mlp = dict(
    type='NonLinearNeck', hid_channels=1024, out_channels=256, num_layers=2, with_avg_pool=False,
    with_bias=True, with_last_bn=False, norm_cfg=dict(type='SyncBN'),
)  # fmt: skip
byol = dict(
    _delete_=True,
    type='mmmokd.ViewPairHead',
    reads='byol',
    head=dict(
        type='LatentPredictHead',
        predictor=dict(mlp, in_channels=256),
        loss=dict(type='CosineSimilarityLoss', shift_factor=2.0, scale_factor=2.0),  # 2 - 2 cos
    ),
    loss_weight=2.0,  # BYOL adds up the two directions
)
branch = dict(byol=mlp, heads=dict(sm=byol))
model = dict(branches=dict(cnn=branch, vit=branch))
