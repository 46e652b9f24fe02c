# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# MoCo v3 (arXiv 2104.02057) in place of L_sm and L_st of the ViT; the CNN has DINO's, and both
# distil across. Projector and predictor are mmpretrain's.
_base_ = '../mokd_resnet18_vit-tiny-p4_1xb256-amp-coslr-200e_cifar10.py'

mlp = dict(
    type='NonLinearNeck', hid_channels=1024, out_channels=256, with_avg_pool=False,
    with_bias=False, with_last_bn=True, with_last_bn_affine=False, with_last_bias=False,
)  # fmt: skip
moco = dict(
    _delete_=True,
    type='mmmokd.ViewPairHead',
    reads='moco',
    head=dict(
        type='MoCoV3Head',
        predictor=dict(mlp, in_channels=256, num_layers=2),
        loss=dict(type='CrossEntropyLoss', loss_weight=2 * 0.2),  # 2 * temperature
        temperature=0.2,
    ),
    loss_weight=2.0,  # MoCo v3 adds up the two directions
)
model = dict(branches=dict(vit=dict(moco=dict(mlp, num_layers=3), heads=dict(sm=moco, st=None))))
