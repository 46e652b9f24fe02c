# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Mask R-CNN, plain ViT-S/16 with a simple feature pyramid, as ViTDet (arXiv 2203.16527) but with
# global attention in every block; 12 epochs of COCO; 8 GPUs with 2 images each.
_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['mmmokd'])

norm_cfg = dict(type='mmpretrain.LN2d', eps=1e-6)  # ViTDet's: LN over channels
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmmokd.VisionTransformer',
        arch='deit-small',
        patch_size=16,
        img_size=224,  # of pretraining; position embeddings are resized to the image
        out_type='featmap',
        drop_path_rate=0.1,
        # The weights to start from, and the branch; init_cfg=None starts from random ones.
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/mokd_resnet50_vit-small-p16_16xb16-amp-coslr-100e_in1k/'
            'epoch_100.pth',
            prefix='branches.vit.teacher.backbone.',
        ),
    ),
    neck=dict(_delete_=True, type='mmmokd.SimpleFeaturePyramid', in_channels=384, num_outs=5),
    rpn_head=dict(num_convs=2),
    roi_head=dict(
        bbox_head=dict(type='Shared4Conv1FCBBoxHead', norm_cfg=norm_cfg),
        mask_head=dict(norm_cfg=norm_cfg),
    ),
)
# Learning rate 1e-4 for 16 images, as ViT-Adapter (arXiv 2205.08534) has for 12 epochs (ViTDet:
# 1e-4 for 64 images and 100 epochs). ViTDet's: 0.7 times that in each earlier block, weight decay
# 0.1 on all but norm layers and position embeddings, drop path 0.1. Not tuned for MOKD.
optim_wrapper = dict(
    constructor='mmmokd.LayerDecayOptimWrapperConstructor',
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1),
    paramwise_cfg=dict(
        layer_decay_rate=0.7,
        norm_decay_mult=0.0,
        custom_keys={'.pos_embed': dict(decay_mult=0.0)},
    ),
)
