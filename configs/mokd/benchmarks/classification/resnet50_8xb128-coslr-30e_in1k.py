# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Fine-tuning of ResNet-50 on ImageNet, with the settings that SimCLR has for 10 % of its labels.
_base_ = [
    '../../../_base_/models/resnet50_classifier.py',
    '../../../_base_/datasets/imagenet_bs128_224.py',
    '../../../_base_/schedules/finetune_sgd_coslr_30e.py',
    '../../../_base_/default_runtime.py',
]
