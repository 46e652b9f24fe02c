# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Transfer of ViT-S/16 to CIFAR-100.
_base_ = './vit-small-p16_8xb96-coslr-1000e_cifar10.py'

data = dict(type='CIFAR100', data_root='data/cifar100/')  # downloaded into it if it does not exist
train_dataloader = dict(dataset=dict(data, split='train'))
val_dataloader = test_dataloader = dict(dataset=dict(data, split='test'))
data_preprocessor = dict(num_classes=100)
model = dict(head=dict(num_classes=100))
