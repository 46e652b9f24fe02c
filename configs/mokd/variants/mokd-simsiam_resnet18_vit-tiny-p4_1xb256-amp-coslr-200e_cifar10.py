# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# SimSiam (arXiv 2011.10566) in place of L_sm: the target is the student's own output. L_cm trains the
# projectors, L_st anchors L_ct. Neck, predictor and loss are mmpretrain's, as on CIFAR-10 in the paper.
_base_ = '../mokd_resnet18_vit-tiny-p4_1xb256-amp-coslr-200e_cifar10.py'

mlp = dict(
    type='NonLinearNeck', out_channels=2048, num_layers=2, with_avg_pool=False,
    norm_cfg=dict(type='SyncBN'),
)  # fmt: skip
neck = dict(mlp, hid_channels=2048, with_last_bn_affine=False)
predictor = dict(mlp, in_channels=2048, hid_channels=512, with_last_bn=False, with_last_bias=True)
simsiam = dict(
    _delete_=True,
    type='mmmokd.ViewPairHead',
    reads='simsiam',
    teacher='none',
    head=dict(  # 1 - cos; SimSiam takes the mean of the two directions
        type='LatentPredictHead', predictor=predictor,
        loss=dict(type='CosineSimilarityLoss', shift_factor=1.0),
    ),
)  # fmt: skip
branch = dict(simsiam=neck, heads=dict(sm=simsiam))
model = dict(branches=dict(cnn=branch, vit=branch))

# No schedule names the part of the predictors: their rates stay, as in SimSiam.
cnn, vit = dict(parts=dict(heads=dict(lr=0.1))), dict(parts=dict(heads=dict(lr=3e-4)))
optim_wrapper = dict(branches=dict(cnn=cnn, vit=vit))
