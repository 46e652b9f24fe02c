# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
_base_ = './vit-small-p16_8xb96-coslr-1000e_in1k-10pct.py'

train_dataloader = dict(dataset=dict(ann_file='meta/train_1percent.txt'))
