# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# MCL with the branches, views, optimizers, teachers and evaluation of MOKD's config: its local views
# are queries as well.
_base_ = '../mokd/mokd_resnet18_vit-tiny-p4_1xb256-amp-coslr-200e_cifar10.py'

branches = _base_.model.branches
model = dict(
    _delete_=True,
    type='mmmokd.MCL',
    global_size=32,
    queue_length=4096,  # 65536 would hold each of the 50,000 images more than once
    student_views='all',
    branches=dict(
        cnn=dict(backbone=branches.cnn.backbone), vit=dict(backbone=branches.vit.backbone)
    ),
)
optim_wrapper = dict(branches=dict(cnn=dict(parts=dict(_delete_=True))))
param_scheduler = dict(cnn=_base_.param_scheduler.cnn[:1])  # no search head
default_hooks = dict(prototype_freeze=None)  # it is for prototypes
