# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Fine-tuning of ViT-B/16 on ImageNet, half as long as that of ViT-S, as iBOT does it.
_base_ = './vit-small-p16_8xb128-coslr-200e_in1k.py'

train_cfg = dict(max_epochs=100)
model = dict(
    backbone=dict(
        arch='deit-base',
        init_cfg=dict(
            checkpoint='work_dirs/mokd_resnet50_vit-base-p16_16xb16-amp-coslr-100e_in1k/'
            'epoch_100.pth'
        ),
    ),
    head=dict(in_channels=768),
)
# As iBOT has it for ViT-B; the schedule says what it does.
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.65))
