# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
_base_ = './mokd_resnet18_vit-small-p16_16xb16-amp-coslr-100e_in1k.py'

model = dict(branches=dict(cnn=dict(backbone=dict(depth=34))))
