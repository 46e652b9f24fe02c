# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Transfer of ResNet-50 to Stanford Cars.
_base_ = './resnet50_1xb256-coslr-20k_cifar10.py'

data = dict(type='StanfordCars', data_root='data/Stanford_Cars/')
train_dataloader = dict(dataset=dict(data, split='train'))
val_dataloader = test_dataloader = dict(dataset=dict(data, split='test'))
data_preprocessor = dict(num_classes=196)
model = dict(head=dict(num_classes=196))
