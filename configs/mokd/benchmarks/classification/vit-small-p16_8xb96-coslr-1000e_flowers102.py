# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Transfer of ViT-S/16 to Oxford 102 Flowers.
_base_ = './vit-small-p16_8xb96-coslr-1000e_cifar10.py'

data = dict(type='Flowers102', data_root='data/Flowers102/')
train_dataloader = dict(dataset=dict(data, split='trainval'))
val_dataloader = test_dataloader = dict(dataset=dict(data, split='test'))
data_preprocessor = dict(num_classes=102)
model = dict(head=dict(num_classes=102))
