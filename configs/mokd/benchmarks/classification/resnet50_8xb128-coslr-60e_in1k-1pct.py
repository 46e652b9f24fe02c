# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
_base_ = './resnet50_8xb128-coslr-30e_in1k-10pct.py'

train_cfg = dict(max_epochs=60)
train_dataloader = dict(dataset=dict(ann_file='meta/train_1percent.txt'))
