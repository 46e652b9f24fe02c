# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# CompRess-2q as in its paper: a ResNet-18 learns from the features of a ResNet-50 of MoCo v2, on one
# view. The learning rate falls at epochs 90 and 120.
_base_ = '../mokd/mokd_resnet50_resnet18_16xb16-amp-coslr-100e_in1k.py'

# Settings to change first. Learning rates follow batch size and number of GPUs.
train_dataloader = dict(batch_size=16)
train_cfg = dict(max_epochs=130, val_interval=10)

# As mmpretrain publishes it (configs/mocov2); any weights of the backbone in its place.
teacher = dict(
    type='Pretrained',
    checkpoint='checkpoints/mocov2_resnet50_8xb32-coslr-200e_in1k.pth',
    prefix='backbone.',
)
small, large = _base_.model.branches.resnet18, _base_.model.branches.resnet50
model = dict(
    _delete_=True,
    type='mmmokd.CompRess',
    num_queues=2,
    num_global_views=1,
    global_size=224,
    branches=dict(
        resnet18=dict(backbone=small.backbone, heads=dict(kl=dict(queue_length=128000))),
        resnet50=dict(frozen=True, backbone=dict(large.backbone, init_cfg=teacher)),
    ),
)

view = dict(size=224, scale=(0.08, 1.0), color_jitter_prob=0.0, grayscale=0.0, blur=0.0)
load, _, pack = _base_.train_pipeline
train_pipeline = [load, dict(type='mmmokd.MultiCrop', groups=[view]), pack]
train_dataloader.update(dataset=dict(pipeline=train_pipeline))
val_cfg = dict(networks=('student',))
test_cfg = val_cfg

sgd = dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4)
optim_wrapper = dict(clip_grad=None, branches=dict(_delete_=True, resnet18=dict(optimizer=sgd)))
param_scheduler = dict(
    _delete_=True,
    resnet18=[dict(type='MultiStepLR', by_epoch=True, milestones=[90, 120], gamma=0.2)],
)
default_hooks = dict(
    ema_teacher=dict(base_momentum=0.999, end_momentum=0.999),
    prototype_freeze=None,
)
