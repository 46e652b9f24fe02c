# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# MCL as in its paper, which trained pairs of ResNet-18: the views, the CNN's optimizer and the teachers
# of MoCo v1. The ViT, of which the paper has none, keeps the optimizer of MOKD.
_base_ = '../mokd/mokd_resnet50_vit-small-p16_16xb16-amp-coslr-100e_in1k.py'

# Settings to change first. Learning rates follow batch size and number of GPUs.
train_cfg = dict(max_epochs=200, val_interval=10)

branches = _base_.model.branches
model = dict(
    _delete_=True,
    type='mmmokd.MCL',
    global_size=224,
    queue_length=65536,
    student_views='first',  # the second is the key
    branches=dict(
        cnn=dict(backbone=branches.cnn.backbone), vit=dict(backbone=branches.vit.backbone)
    ),
)

views = dict(
    num=2, size=224, scale=(0.2, 1.0), blur=0.0,
    color_jitter=(0.4, 0.4, 0.4, 0.4), color_jitter_prob=1.0,
)  # fmt: skip
load, _, pack = _base_.train_pipeline
train_pipeline = [load, dict(type='mmmokd.MultiCrop', groups=[views]), pack]
train_dataloader = dict(batch_size=16, dataset=dict(pipeline=train_pipeline))

optim_wrapper = dict(
    clip_grad=None,
    branches=dict(
        cnn=dict(
            _delete_=True,
            optimizer=dict(type='SGD', lr=0.03, momentum=0.9, weight_decay=1e-4),
        )
    ),
)
param_scheduler = dict(
    cnn=[dict(type='MultiStepLR', by_epoch=True, milestones=[120, 160], gamma=0.1)]
)
default_hooks = dict(
    ema_teacher=dict(base_momentum=0.999, end_momentum=0.999),
    prototype_freeze=None,
)
