# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# DoGo (arXiv 2104.09866) with SimCLR: backbones, optimizers, schedules and the kind of the global views
# are those of MOKD's config. Each model has two views of its own; with model.own_views=False both
# see the first two.
_base_ = '../mokd/mokd_resnet18_vit-tiny-p4_1xb256-amp-coslr-200e_cifar10.py'

cnn, vit = _base_.model.branches.cnn, _base_.model.branches.vit
model = dict(
    _delete_=True,
    type='mmmokd.DoGo',
    own_views=True,
    global_size=_base_.model.global_size,
    branches=dict(
        # Of the divergence; 100 for the model that is to learn from the other, as released.
        cnn=dict(backbone=cnn.backbone, cross_weight=100.0),
        vit=dict(backbone=vit.backbone, cross_weight=1.0),
    ),
)

load, crop, pack = _base_.train_dataloader.dataset.pipeline
first, second, local = crop.groups
pipeline = [load, dict(crop, groups=[first, second, first, second]), pack]
train_dataloader = dict(dataset=dict(pipeline=pipeline))

# There is no search head to have settings of its own.
optim_wrapper = dict(branches=dict(cnn=dict(parts=None)))
param_scheduler = dict(cnn=[_base_.param_scheduler.cnn[0]])
