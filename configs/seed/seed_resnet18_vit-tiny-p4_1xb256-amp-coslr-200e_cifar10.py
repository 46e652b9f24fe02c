# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# SEED with the branches, views, optimizer and evaluation of MOKD's config: the ViT, trained before
# and alone, is frozen, and the CNN learns its pooled features.
_base_ = '../mokd/mokd_resnet18_vit-tiny-p4_1xb256-amp-coslr-200e_cifar10.py'

# Any weights of the backbone, for example of MOKD's config, in its place.
teacher = dict(
    type='Pretrained',
    checkpoint='work_dirs/dino_vit-tiny-p4_1xb256-amp-coslr-200e_cifar10/epoch_200.pth',
    prefix='branches.vit.teacher.backbone.',
)
branches = _base_.model.branches
model = dict(
    _delete_=True,
    type='mmmokd.SEED',
    global_size=32,
    num_global_views=2,
    student_views='all',
    neck_defaults=dict(hid_channels=512, out_channels=192),  # as wide as the ViT's features
    branches=dict(
        cnn=dict(
            backbone=branches.cnn.backbone,
            ema=False,
            # 65536 would hold each of the 50,000 images more than once.
            heads=dict(seed=dict(target_reads='pooled', queue_length=4096)),
        ),
        vit=dict(backbone=dict(branches.vit.backbone, init_cfg=teacher), frozen=True),
    ),
)
optimizer = _base_.optim_wrapper.branches.cnn.optimizer
optim_wrapper = dict(branches=dict(_delete_=True, cnn=dict(optimizer=optimizer)))
param_scheduler = dict(_delete_=True, cnn=_base_.param_scheduler.cnn[:1])  # no search head
default_hooks = dict(ema_teacher=None, prototype_freeze=None)
