# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Transfer of ResNet-50 to Describable Textures, the first of its ten splits.
_base_ = './resnet50_1xb256-coslr-20k_cifar10.py'

data = dict(type='DTD', data_root='data/dtd/')
train_dataloader = dict(dataset=dict(data, split='trainval'))
val_dataloader = test_dataloader = dict(dataset=dict(data, split='test'))
data_preprocessor = dict(num_classes=47)
model = dict(head=dict(num_classes=47))
