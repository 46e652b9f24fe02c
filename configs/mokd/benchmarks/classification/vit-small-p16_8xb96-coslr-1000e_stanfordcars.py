# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Transfer of ViT-S/16 to Stanford Cars.
_base_ = './vit-small-p16_8xb96-coslr-1000e_cifar10.py'

data = dict(type='StanfordCars', data_root='data/Stanford_Cars/')
train_dataloader = dict(dataset=dict(data, split='train'))
val_dataloader = test_dataloader = dict(dataset=dict(data, split='test'))
data_preprocessor = dict(num_classes=196)
model = dict(head=dict(num_classes=196))
# Ten times that of the other sets, as in iBOT's evaluation.
optim_wrapper = dict(optimizer=dict(lr=7.5e-5))
