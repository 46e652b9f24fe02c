# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Transfer of ResNet-50 to Oxford 102 Flowers.
_base_ = './resnet50_1xb256-coslr-20k_cifar10.py'

data = dict(type='Flowers102', data_root='data/Flowers102/')
train_dataloader = dict(dataset=dict(data, split='trainval'))
val_dataloader = test_dataloader = dict(dataset=dict(data, split='test'))
data_preprocessor = dict(num_classes=102)
model = dict(head=dict(num_classes=102))
