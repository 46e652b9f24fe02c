# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# MoCo v3 (arXiv 2104.02057) in place of L_sm. L_cm trains the projectors, L_st anchors L_ct. Neck,
# predictor and loss are mmpretrain's; the CNN has MoCo v3's settings for ResNets.
_base_ = '../mokd_resnet50_vit-small-p16_16xb16-amp-coslr-100e_in1k.py'

mlp = dict(
    type='NonLinearNeck', hid_channels=4096, out_channels=256, num_layers=2, with_avg_pool=False,
    with_bias=False, with_last_bn=True, with_last_bn_affine=False, with_last_bias=False,
    norm_cfg=dict(type='SyncBN'),
)  # fmt: skip
cnn_head = dict(
    type='MoCoV3Head', predictor=dict(mlp, in_channels=256, with_last_bn=False), temperature=1.0,
    loss=dict(type='CrossEntropyLoss', loss_weight=2 * 1.0),  # 2 * temperature
)  # fmt: skip
vit_head = dict(
    type='MoCoV3Head', predictor=dict(mlp, in_channels=256), temperature=0.2,
    loss=dict(type='CrossEntropyLoss', loss_weight=2 * 0.2),
)  # fmt: skip
# The weight is 2 because MoCo v3 adds up the two directions.
moco = dict(_delete_=True, type='mmmokd.ViewPairHead', reads='moco', loss_weight=2.0)
cnn = dict(moco=mlp, heads=dict(sm=dict(moco, head=cnn_head)))
vit = dict(moco=dict(mlp, num_layers=3), heads=dict(sm=dict(moco, head=vit_head)))
model = dict(branches=dict(cnn=cnn, vit=vit))
