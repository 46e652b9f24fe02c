# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Transfer of ResNet-50 to FGVC Aircraft, variants.
_base_ = './resnet50_1xb256-coslr-20k_cifar10.py'

data = dict(type='FGVCAircraft', data_root='data/fgvc-aircraft-2013b/')
train_dataloader = dict(dataset=dict(data, split='trainval'))
val_dataloader = test_dataloader = dict(dataset=dict(data, split='test'))
data_preprocessor = dict(num_classes=100)
model = dict(head=dict(num_classes=100))
