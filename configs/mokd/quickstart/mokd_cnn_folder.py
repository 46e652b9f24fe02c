# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# The quick start's CNN, alone.
_base_ = './mokd_cnn-vit_folder.py'

branches = dict(_base_.model.branches)
wrappers = dict(_base_.optim_wrapper.branches)
del branches['vit'], wrappers['vit']
model = dict(branches=dict(_delete_=True, **branches))
optim_wrapper = dict(branches=dict(_delete_=True, **wrappers))
param_scheduler = dict(_delete_=True, cnn=_base_.param_scheduler.cnn)
