# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Transfer of ViT-S/16 to FGVC Aircraft, variants.
_base_ = './vit-small-p16_8xb96-coslr-1000e_cifar10.py'

data = dict(type='FGVCAircraft', data_root='data/fgvc-aircraft-2013b/')
train_dataloader = dict(dataset=dict(data, split='trainval'))
val_dataloader = test_dataloader = dict(dataset=dict(data, split='test'))
data_preprocessor = dict(num_classes=100)
model = dict(head=dict(num_classes=100))
# As for cars; our choice.
optim_wrapper = dict(optimizer=dict(lr=7.5e-5))
