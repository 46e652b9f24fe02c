# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Mask R-CNN, ResNet-50 with FPN, 12 epochs of COCO; 8 GPUs with 2 images each.
_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['mmmokd'])

# The weights to start from, and the branch; init_cfg=None starts from random ones.
init_cfg = dict(
    type='Pretrained',
    checkpoint='work_dirs/mokd_resnet50_vit-small-p16_16xb16-amp-coslr-100e_in1k/epoch_100.pth',
    prefix='branches.cnn.teacher.backbone.',
)
# As MoCo (arXiv 1911.05722) fine-tunes self-supervised weights, whose scale differs from supervised
# ones: nothing is frozen, batch norm is trained, over all GPUs, and the FPN has it as well.
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    backbone=dict(frozen_stages=-1, norm_cfg=norm_cfg, norm_eval=False, init_cfg=init_cfg),
    neck=dict(norm_cfg=norm_cfg),
)
# Learning rate: mmdet's, SGD with 0.02 for 16 images, which is also MoCo's; the same in all
# layers. --auto-scale-lr fits it to another batch size.
