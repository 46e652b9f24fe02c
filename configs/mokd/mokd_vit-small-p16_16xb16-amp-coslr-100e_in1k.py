# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# One branch alone: DINO with a search head, to compare with.
_base_ = './mokd_resnet50_vit-small-p16_16xb16-amp-coslr-100e_in1k.py'

model = dict(branches=dict(cnn=None))
