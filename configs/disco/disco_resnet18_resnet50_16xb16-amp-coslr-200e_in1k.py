# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# DisCo as in its paper: a ResNet-18 learns by MoCo v2, and from a ResNet-50 of MoCo v2, head included.
_base_ = '../_base_/offline_resnet18_resnet50_in1k.py'

# Settings to change first. Learning rates follow batch size and number of GPUs.
train_dataloader = dict(batch_size=16)
train_cfg = dict(max_epochs=200, val_interval=10)

head = dict(out_channels=128, init_cfg=dict(_base_.teacher, prefix='neck.'))
model = dict(
    type='mmmokd.DisCo',
    neck_defaults=dict(hid_channels=2048),
    branches=dict(
        resnet18=dict(heads=dict(co=dict(queue_length=65536))), resnet50=dict(projector=head)
    ),
)
val_cfg = dict(networks=('student',))
test_cfg = val_cfg
default_hooks = dict(ema_teacher=dict(base_momentum=0.999, end_momentum=0.999))
