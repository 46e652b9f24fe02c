# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# KoLeo (DINOv2, arXiv 2304.07193) as a fifth term of both branches: it spreads the features of the
# images in a batch. DINOv2's weight is 0.1 for each of two views that are added up.
_base_ = '../mokd_resnet18_vit-tiny-p4_1xb256-amp-coslr-200e_cifar10.py'

koleo = dict(type='mmmokd.KoLeoHead', reads='pooled', loss_weight=0.2)
model = dict(branches=dict(cnn=dict(heads=dict(koleo=koleo)), vit=dict(heads=dict(koleo=koleo))))
