# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Transfer of ResNet-50 to CIFAR-100.
_base_ = './resnet50_1xb256-coslr-20k_cifar10.py'

data = dict(type='CIFAR100', data_root='data/cifar100/')  # downloaded into it if it does not exist
train_dataloader = dict(dataset=dict(data, split='train'))
val_dataloader = test_dataloader = dict(dataset=dict(data, split='test'))
data_preprocessor = dict(num_classes=100)
model = dict(head=dict(num_classes=100))
