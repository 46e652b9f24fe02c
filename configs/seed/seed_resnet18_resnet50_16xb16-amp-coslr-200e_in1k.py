# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# SEED as in its paper: a ResNet-18 learns from a ResNet-50 of MoCo v2, projector included, on one view.
_base_ = '../mokd/mokd_resnet50_resnet18_16xb16-amp-coslr-100e_in1k.py'

# Settings to change first. Learning rates follow batch size and number of GPUs.
train_cfg = dict(max_epochs=200, val_interval=10)

# As mmpretrain publishes it (configs/mocov2); the paper has one of 200 and one of 800 epochs.
teacher = dict(
    type='Pretrained', checkpoint='checkpoints/mocov2_resnet50_8xb32-coslr-200e_in1k.pth'
)
small, large = _base_.model.branches.resnet18, _base_.model.branches.resnet50
model = dict(
    _delete_=True,
    type='mmmokd.SEED',
    global_size=224,
    num_global_views=1,
    student_views='first',
    neck_defaults=dict(out_channels=128),
    branches=dict(
        resnet18=dict(
            backbone=small.backbone,
            projector=dict(hid_channels=512),
            ema=False,
            heads=dict(seed=dict(queue_length=65536, student_temp=0.2, teacher_temp=1e-4)),
        ),
        resnet50=dict(
            backbone=dict(large.backbone, init_cfg=dict(teacher, prefix='backbone.')),
            projector=dict(hid_channels=2048, init_cfg=dict(teacher, prefix='neck.')),
            frozen=True,
        ),
    ),
)

view = dict(size=224, scale=(0.2, 1.0), color_jitter=(0.4, 0.4, 0.4, 0.1), blur=0.5)
load, _, pack = _base_.train_pipeline
train_pipeline = [load, dict(type='mmmokd.MultiCrop', groups=[view]), pack]
train_dataloader = dict(batch_size=16, dataset=dict(pipeline=train_pipeline))

sgd = dict(type='SGD', lr=0.03, momentum=0.9, weight_decay=1e-4)
optim_wrapper = dict(clip_grad=None, branches=dict(_delete_=True, resnet18=dict(optimizer=sgd)))
param_scheduler = dict(
    _delete_=True,
    resnet18=[
        dict(
            type='mmmokd.WarmupCosineParamScheduler', param_name='lr', final=0.0,
            by_epoch=True, convert_to_iter_based=True,
        )
    ],
)  # fmt: skip
default_hooks = dict(ema_teacher=None, prototype_freeze=None)
