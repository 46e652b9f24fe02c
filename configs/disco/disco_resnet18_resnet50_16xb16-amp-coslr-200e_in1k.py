# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# DisCo as in its paper: a ResNet-18 learns by MoCo v2, and from a ResNet-50 of MoCo v2, head included.
_base_ = '../mokd/mokd_resnet50_resnet18_16xb16-amp-coslr-100e_in1k.py'

# Settings to change first. Learning rates follow batch size and number of GPUs.
train_dataloader = dict(batch_size=16)
train_cfg = dict(max_epochs=200, val_interval=10)

# As mmpretrain publishes it (configs/mocov2).
teacher = dict(
    type='Pretrained', checkpoint='checkpoints/mocov2_resnet50_8xb32-coslr-200e_in1k.pth'
)
small, large = _base_.model.branches.resnet18, _base_.model.branches.resnet50
model = dict(
    _delete_=True,
    type='mmmokd.DisCo',
    global_size=224,
    neck_defaults=dict(hid_channels=2048),
    branches=dict(
        resnet18=dict(backbone=small.backbone, heads=dict(co=dict(queue_length=65536))),
        resnet50=dict(
            frozen=True,
            backbone=dict(large.backbone, init_cfg=dict(teacher, prefix='backbone.')),
            projector=dict(out_channels=128, init_cfg=dict(teacher, prefix='neck.')),
        ),
    ),
)

views = dict(num=2, size=224, scale=(0.2, 1.0), color_jitter=(0.4, 0.4, 0.4, 0.1), blur=0.5)
load, _, pack = _base_.train_pipeline
train_pipeline = [load, dict(type='mmmokd.MultiCrop', groups=[views]), pack]
train_dataloader.update(dataset=dict(pipeline=train_pipeline))
val_cfg = dict(networks=('student',))
test_cfg = val_cfg

sgd = dict(type='SGD', lr=0.03, momentum=0.9, weight_decay=1e-4)
optim_wrapper = dict(clip_grad=None, branches=dict(_delete_=True, resnet18=dict(optimizer=sgd)))
cosine = dict(
    type='mmmokd.WarmupCosineParamScheduler', param_name='lr', final=0.0,
    by_epoch=True, convert_to_iter_based=True,
)  # fmt: skip
param_scheduler = dict(_delete_=True, resnet18=[cosine])
default_hooks = dict(
    ema_teacher=dict(base_momentum=0.999, end_momentum=0.999),
    prototype_freeze=None,
)
