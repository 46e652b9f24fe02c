# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Distillation from a frozen ViT that an earlier run trained, with the branches, global views, optimizer
# and evaluation of MOKD's config; what builds on it adds the method.
_base_ = '../mokd/mokd_resnet18_vit-tiny-p4_1xb256-amp-coslr-200e_cifar10.py'

# Any weights of the backbone, in its place: model.branches.vit.backbone.init_cfg.checkpoint=FILE.
teacher = dict(
    type='Pretrained',
    checkpoint='work_dirs/dino_resnet18_vit-tiny-p4_1xb256-amp-coslr-200e_cifar10/epoch_200.pth',
    prefix='branches.vit.teacher.backbone.',
)
cnn, vit = _base_.model.branches.cnn.backbone, _base_.model.branches.vit.backbone
model = dict(
    _delete_=True,
    global_size=32,
    branches=dict(
        cnn=dict(backbone=cnn), vit=dict(frozen=True, backbone=dict(vit, init_cfg=teacher))
    ),
)

all_views = _base_.train_pipeline
load, crop, pack = all_views
train_pipeline = [load, dict(crop, groups=crop.groups[:2]), pack]  # the global views
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

optimizer = _base_.optim_wrapper.branches.cnn.optimizer
optim_wrapper = dict(branches=dict(_delete_=True, cnn=dict(optimizer=optimizer)))
param_scheduler = dict(_delete_=True, cnn=_base_.param_scheduler.cnn[:1])  # no search head
default_hooks = dict(prototype_freeze=None)  # it is for prototypes
