# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# CompRess-2q as in its paper: a ResNet-18 learns from the features of a ResNet-50 of MoCo v2, on one
# view. The learning rate falls at epochs 90 and 120.
_base_ = '../_base_/offline_resnet18_resnet50_in1k.py'

# Settings to change first. Learning rates follow batch size and number of GPUs.
train_dataloader = dict(batch_size=16)
train_cfg = dict(max_epochs=130, val_interval=10)

model = dict(
    type='mmmokd.CompRess',
    num_queues=2,
    num_global_views=1,
    branches=dict(resnet18=dict(heads=dict(kl=dict(queue_length=128000)))),
)

view = dict(size=224, scale=(0.08, 1.0), color_jitter_prob=0.0, grayscale=0.0, blur=0.0)
load, _, pack = _base_.train_pipeline
train_pipeline = [load, dict(type='mmmokd.MultiCrop', groups=[view]), pack]
train_dataloader.update(dataset=dict(pipeline=train_pipeline))
val_cfg = dict(networks=('student',))
test_cfg = val_cfg

optim_wrapper = dict(branches=dict(resnet18=dict(optimizer=dict(lr=0.01))))
steps = dict(type='MultiStepLR', by_epoch=True, milestones=[90, 120], gamma=0.2)
param_scheduler = dict(resnet18=[steps])
default_hooks = dict(ema_teacher=dict(base_momentum=0.999, end_momentum=0.999))
