# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Mask R-CNN, ResNet-50 without FPN (C4), 12 epochs of COCO; 8 GPUs with 2 images each.
_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50-caffe-c4_1x_coco.py'
custom_imports = dict(imports=['mmmokd'])

# The weights to start from, and the branch; init_cfg=None starts from random ones. The box head's
# last ResNet stage comes from the same file, as in MoCo (arXiv 1911.05722). To change them, set
# both: model.backbone.init_cfg and model.roi_head.shared_head.init_cfg.
init_cfg = dict(
    type='Pretrained',
    checkpoint='work_dirs/mokd_resnet50_vit-small-p16_16xb16-amp-coslr-100e_in1k/epoch_100.pth',
    prefix='branches.cnn.teacher.backbone.',
)
# As MoCo fine-tunes: nothing is frozen, batch norm is trained, over all GPUs. Its further norm
# layer behind the last stage is left out, mmdet has none.
resnet = dict(
    style='pytorch',
    norm_cfg=dict(type='SyncBN', requires_grad=True),
    norm_eval=False,
    init_cfg=init_cfg,
)
model = dict(
    # mmdet's C4 is for weights from Caffe; these are for RGB, with ImageNet's mean and std.
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True
    ),
    backbone=dict(resnet, frozen_stages=-1),
    roi_head=dict(shared_head=resnet),
)
# Learning rate: mmdet's, SGD with 0.02 for 16 images, which is also MoCo's; the same in all
# layers. --auto-scale-lr fits it to another batch size.
