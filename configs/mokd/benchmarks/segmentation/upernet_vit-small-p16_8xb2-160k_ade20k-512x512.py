# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# UPerNet, plain ViT-S/16, 160,000 iterations of ADE20K; 8 GPUs with 2 images each.
# By path: '_base_ = "mmseg::..."' looks for a package named mmsegmentation and does not find it.
_base_ = [
    '../../../_base_/models/upernet_vit-small-p16.py',
    f'{__import__("mmseg").__path__[0]}/.mim/configs/_base_/datasets/ade20k.py',
    f'{__import__("mmseg").__path__[0]}/.mim/configs/_base_/default_runtime.py',
    '../../../_base_/schedules/mmseg_vit_160k.py',
]

# The weights to start from, and the branch, are in the first of these files: model.backbone.init_cfg.
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    decode_head=dict(num_classes=150),
    auxiliary_head=dict(num_classes=150),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)),
)
train_dataloader = dict(batch_size=2)
# Learning rate and layer decay: those of the last file, for 16 images.
