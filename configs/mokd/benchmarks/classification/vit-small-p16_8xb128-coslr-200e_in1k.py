# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Fine-tuning of ViT-S/16 on ImageNet. Layer decay: 0.75, see the schedule.
_base_ = [
    '../../../_base_/models/vit-small-p16_classifier_mixup.py',
    '../../../_base_/datasets/imagenet_bs128_224_strong.py',
    '../../../_base_/schedules/finetune_adamw_coslr_200e.py',
    '../../../_base_/default_runtime.py',
]
