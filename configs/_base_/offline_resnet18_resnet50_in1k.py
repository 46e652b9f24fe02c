# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Distillation from a frozen ResNet-50 of MoCo v2 into a ResNet-18, by SGD, on two views of MoCo v2; what
# builds on it adds the method, and the teacher's head where the method reads it.
_base_ = '../mokd/mokd_resnet50_resnet18_16xb16-amp-coslr-100e_in1k.py'

# As mmpretrain publishes it (configs/mocov2); any weights of the backbone in its place.
teacher = dict(
    type='Pretrained', checkpoint='checkpoints/mocov2_resnet50_8xb32-coslr-200e_in1k.pth'
)
small, large = _base_.model.branches.resnet18, _base_.model.branches.resnet50
model = dict(
    _delete_=True,
    global_size=224,
    branches=dict(
        resnet18=dict(backbone=small.backbone),
        resnet50=dict(
            frozen=True, backbone=dict(large.backbone, init_cfg=dict(teacher, prefix='backbone.'))
        ),
    ),
)

view = dict(size=224, scale=(0.2, 1.0), color_jitter=(0.4, 0.4, 0.4, 0.1), blur=0.5)
load, _, pack = _base_.train_pipeline
train_pipeline = [load, dict(type='mmmokd.MultiCrop', groups=[dict(view, num=2)]), pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

sgd = dict(type='SGD', lr=0.03, momentum=0.9, weight_decay=1e-4)
optim_wrapper = dict(clip_grad=None, branches=dict(_delete_=True, resnet18=dict(optimizer=sgd)))
cosine = dict(
    type='mmmokd.WarmupCosineParamScheduler', param_name='lr', final=0.0,
    by_epoch=True, convert_to_iter_based=True,
)  # fmt: skip
param_scheduler = dict(_delete_=True, resnet18=[cosine])
default_hooks = dict(prototype_freeze=None)  # it is for prototypes
