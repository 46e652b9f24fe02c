# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Fine-tuning of ViT-S/16 with SimCLR's 10 % of ImageNet's labels, as long and with the learning rate as
# iBOT (which keeps a layer of the projector; here all is the backbone and a linear layer).
# The list: see resnet50_8xb128-coslr-30e_in1k-10pct.py.
_base_ = [
    '../../../_base_/models/vit-small-p16_classifier_mixup.py',
    '../../../_base_/datasets/imagenet_bs128_224_strong.py',
    '../../../_base_/schedules/finetune_adamw_coslr_1000e.py',
    '../../../_base_/default_runtime.py',
]

train_dataloader = dict(batch_size=96, dataset=dict(ann_file='meta/train_10percent.txt'))
optim_wrapper = dict(optimizer=dict(lr=5e-6))
default_hooks = dict(checkpoint=dict(interval=50))
