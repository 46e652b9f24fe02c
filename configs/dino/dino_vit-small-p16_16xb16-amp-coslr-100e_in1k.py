# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# One branch with L_sm alone is DINO: no search head is built. The settings are those of MOKD's ViT.
_base_ = '../mokd/mokd_resnet50_vit-small-p16_16xb16-amp-coslr-100e_in1k.py'

model = dict(branches=dict(cnn=None, vit=dict(search_head=None, heads=dict(st=None))))
optim_wrapper = dict(branches=dict(_delete_=True, vit=_base_.optim_wrapper.branches.vit))
param_scheduler = dict(_delete_=True, vit=_base_.param_scheduler.vit)
