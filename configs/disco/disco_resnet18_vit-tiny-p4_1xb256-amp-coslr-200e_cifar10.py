# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# DisCo with the branches, global views, optimizer, EMA teacher and evaluation of MOKD's config: the CNN
# learns by MoCo v2, and from a frozen ViT that an earlier run trained.
_base_ = '../_base_/offline_resnet18_vit-tiny-p4_cifar10.py'

model = dict(
    type='mmmokd.DisCo',
    # 65536 would hold each of the 50,000 images more than once.
    branches=dict(cnn=dict(heads=dict(co=dict(queue_length=4096)))),
)
