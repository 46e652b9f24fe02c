# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# SwAV (arXiv 2006.09882) in place of L_sm, over all views. It trains the projector, which L_cm reads:
# normalized prototypes and a norm layer, as in SwAV. L_st anchors L_ct.
_base_ = '../mokd_resnet18_vit-tiny-p4_1xb256-amp-coslr-200e_cifar10.py'

swav = dict(
    _delete_=True,
    type='mmmokd.SwAVHead',
    reads='projector',
    teacher='none',  # 'own': codes of the EMA teacher
    epsilon=0.05,
    queue_length=3840,  # earlier features, for there are more prototypes than images in a batch
    queue_start_epoch=15,
)
projector = dict(
    num_layers=2, bottleneck_channels=128, train_gain=False, norm_cfg=dict(type='SyncBN')
)
branch = dict(projector=projector, heads=dict(sm=swav))
model = dict(branches=dict(cnn=branch, vit=branch))
