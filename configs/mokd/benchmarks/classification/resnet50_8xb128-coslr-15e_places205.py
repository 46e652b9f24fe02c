# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Transfer of ResNet-50 to Places205, as on ImageNet; of twice as many images half the epochs.
_base_ = './resnet50_8xb128-coslr-30e_in1k.py'

train_cfg = dict(max_epochs=15)
dataset = dict(
    _delete_=True,  # it takes no split
    type='Places205',
    data_root='data/places205/',
    data_prefix='data/vision/torralba/deeplearning/images256',  # as its archive unpacks
)
train_dataloader = dict(
    dataset=dict(
        dataset,
        ann_file='trainvalsplit_places205/train_places205.csv',  # a line: a/abbey/x.jpg 0
        pipeline=_base_.train_dataloader.dataset.pipeline,
    )
)
val_dataloader = dict(
    dataset=dict(
        dataset,
        ann_file='trainvalsplit_places205/val_places205.csv',
        pipeline=_base_.val_dataloader.dataset.pipeline,
    )
)
test_dataloader = val_dataloader
data_preprocessor = dict(num_classes=205)
model = dict(head=dict(num_classes=205))
