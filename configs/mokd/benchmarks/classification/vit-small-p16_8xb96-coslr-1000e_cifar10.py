# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Transfer of ViT-S/16 to CIFAR-10: images enlarged to 224 pixels. Other sets build on this file.
_base_ = [
    '../../../_base_/models/vit-small-p16_classifier_mixup.py',
    '../../../_base_/datasets/imagenet_bs128_224_strong.py',
    '../../../_base_/schedules/finetune_adamw_coslr_1000e.py',
    '../../../_base_/default_runtime.py',
]

data = dict(type='CIFAR10', data_root='data/cifar10/')  # downloaded into it if it does not exist
train_dataloader = dict(batch_size=96, dataset=dict(data, split='train'))
val_dataloader = test_dataloader = dict(dataset=dict(data, split='test'))
data_preprocessor = dict(num_classes=10)
model = dict(head=dict(num_classes=10))
# Top-1 over all images, and its mean over classes, `single-label/recall`.
val_evaluator = test_evaluator = [
    dict(type='Accuracy'),
    dict(type='SingleLabelMetric', items=('recall',)),
]
default_hooks = dict(checkpoint=dict(interval=50))
