# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# SEED as in its paper: a ResNet-18 learns from a ResNet-50 of MoCo v2, projector included, on one view.
# The paper has teachers of 200 and of 800 epochs.
_base_ = '../_base_/offline_resnet18_resnet50_in1k.py'

# Settings to change first. Learning rates follow batch size and number of GPUs.
train_cfg = dict(max_epochs=200, val_interval=10)

head = dict(hid_channels=2048, init_cfg=dict(_base_.teacher, prefix='neck.'))
term = dict(queue_length=65536, student_temp=0.2, teacher_temp=1e-4)
model = dict(
    type='mmmokd.SEED',
    num_global_views=1,
    student_views='first',
    neck_defaults=dict(out_channels=128),
    branches=dict(
        resnet18=dict(projector=dict(hid_channels=512), ema=False, heads=dict(seed=term)),
        resnet50=dict(projector=head),
    ),
)

load, crop, pack = _base_.train_pipeline
train_pipeline = [load, dict(crop, groups=[_base_.view]), pack]
train_dataloader = dict(batch_size=16, dataset=dict(pipeline=train_pipeline))
default_hooks = dict(ema_teacher=None)
