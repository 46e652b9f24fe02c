# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Three models: a ResNet-18 joins the pair, with the settings of its CNN. Each learns from both others.
_base_ = './mokd_resnet50_vit-small-p16_16xb16-amp-coslr-100e_in1k.py'

cnn = _base_.model.branches.cnn
model = dict(branches=dict(cnn_small=dict(cnn, backbone=dict(cnn.backbone, depth=18))))
optim_wrapper = dict(branches=dict(cnn_small=_base_.optim_wrapper.branches.cnn))
param_scheduler = dict(cnn_small=_base_.param_scheduler.cnn)
