# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# What the quick start's CNN, pretrained on a folder, is worth to a detector: a small Mask R-CNN on
# small images, in minutes on a CPU. Nothing to quote: it is to see the hand-over work.
_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['mmmokd'])

data_root = 'data/coco_mini/'  # train2017, val2017 and annotations as COCO has them, or fewer
size = (160, 160)

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.ResNet',
        depth=18,
        stem_channels=16,
        base_channels=16,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(0, 1, 2),
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/quickstart/images_seed0/cnn-vit/epoch_7.pth',
            prefix='branches.cnn.teacher.backbone.',
        ),
    ),
    neck=dict(in_channels=[16, 32, 64], out_channels=32, norm_cfg=dict(type='BN')),
    rpn_head=dict(in_channels=32, feat_channels=32, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=32),
        mask_roi_extractor=dict(out_channels=32),
        bbox_head=dict(in_channels=32, fc_out_channels=128),
        mask_head=dict(in_channels=32, conv_out_channels=32, num_convs=2),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=200), rcnn=dict(sampler=dict(num=64))
    ),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=100)),
)
load, annotations, resize, flip, pack = _base_.train_pipeline
train_pipeline = [load, annotations, dict(resize, scale=size), flip, pack]
load, resize, annotations, pack = _base_.test_pipeline
test_pipeline = [load, dict(resize, scale=size), annotations, pack]
loader = dict(num_workers=0, persistent_workers=False)
train_data = dict(data_root=data_root, pipeline=train_pipeline)
train_dataloader = dict(**loader, batch_size=4, dataset=train_data)
test_data = dict(data_root=data_root, pipeline=test_pipeline)
val_dataloader = test_dataloader = dict(**loader, dataset=test_data)
val_evaluator = test_evaluator = dict(ann_file=f'{data_root}annotations/instances_val2017.json')
train_cfg = dict(max_epochs=12, val_interval=12)
# One step a schedule, warm-up included, for so few images; the same learning rate in all layers.
optim_wrapper = dict(optimizer=dict(lr=0.02))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=25),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0, eta_min=0.0, convert_to_iter_based=True),
]
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(interval=12))
