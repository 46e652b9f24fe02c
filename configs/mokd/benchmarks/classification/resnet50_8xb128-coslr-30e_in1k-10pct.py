# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Fine-tuning of ResNet-50 with SimCLR's 10 % of ImageNet's labels. The list, below data/imagenet, has a
# line `n01440764/n01440764_10026.JPEG 0` for each image; README.md converts SimCLR's lists.
_base_ = './resnet50_8xb128-coslr-30e_in1k.py'

train_dataloader = dict(dataset=dict(ann_file='meta/train_10percent.txt'))
