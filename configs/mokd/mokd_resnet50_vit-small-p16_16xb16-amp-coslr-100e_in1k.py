# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# The paper's recipe: ResNet-50 and ViT-S/16 on ImageNet, 100 epochs, 16 GPUs with 16 images each.
_base_ = [
    '../_base_/models/mokd_resnet50_vit-small-p16.py',
    '../_base_/datasets/imagenet_bs16_multi-crop.py',
    '../_base_/schedules/mokd_cnn_vit_100e.py',
    '../_base_/mokd_runtime.py',
]

# Settings to change first. Learning rates follow batch size and number of GPUs, schedules the epochs.
train_dataloader = dict(batch_size=16)
train_cfg = dict(max_epochs=100, val_interval=10)
