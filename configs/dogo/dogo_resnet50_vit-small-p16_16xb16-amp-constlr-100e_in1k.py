# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# DoGo (arXiv 2104.09866) with SimCLR on ImageNet. Views, optimizer and the constant learning rate are
# those of the authors' code; backbones, batch size and epochs are those of MOKD's config.
_base_ = '../mokd/mokd_resnet50_vit-small-p16_16xb16-amp-coslr-100e_in1k.py'

cnn, vit = _base_.model.branches.cnn, _base_.model.branches.vit
model = dict(
    _delete_=True,
    type='mmmokd.DoGo',
    own_views=True,
    branches=dict(
        # Of the divergence; 100 for the model that is to learn from the other, as released.
        cnn=dict(backbone=cnn.backbone, cross_weight=100.0),
        vit=dict(backbone=vit.backbone, cross_weight=1.0),
    ),
)

load, crop, pack = _base_.train_dataloader.dataset.pipeline
view = dict(
    num=4,  # two for each model
    size=224,
    scale=(0.08, 1.0),
    interpolation='bilinear',
    color_jitter=(0.8, 0.8, 0.8, 0.2),
    blur=0.5,
)
train_dataloader = dict(dataset=dict(pipeline=[load, dict(crop, groups=[view]), pack]))

optim_wrapper = dict(
    _delete_=True,
    constructor='mmmokd.BranchOptimWrapperConstructor',
    type='AmpOptimWrapper',  # 'OptimWrapper' without mixed precision
    dtype='auto',
    loss_scale='dynamic',
    optimizer=dict(type='Adam', lr=3e-4, weight_decay=1e-6),
)
param_scheduler = None
