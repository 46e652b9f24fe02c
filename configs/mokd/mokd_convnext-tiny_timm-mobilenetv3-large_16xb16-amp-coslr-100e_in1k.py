# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Any backbone of mmpretrain or timm can be a branch: here one of each. ConvNeXt learns as the ViT of
# the pair does (AdamW), MobileNetV3 as the CNN (SGD).
_base_ = './mokd_resnet50_vit-small-p16_16xb16-amp-coslr-100e_in1k.py'

branches = _base_.model.branches
convnext = dict(type='ConvNeXt', arch='tiny', drop_path_rate=0.1, gap_before_final_norm=False)
mobilenet = dict(
    type='TIMMBackbone', model_name='mobilenetv3_large_100', features_only=True, out_indices=(4,)
)
model = dict(
    branches=dict(
        _delete_=True,
        convnext=dict(branches.vit, backbone=convnext),
        mobilenet=dict(branches.cnn, backbone=mobilenet),
    )
)
optim = _base_.optim_wrapper.branches
optim_wrapper = dict(branches=dict(_delete_=True, convnext=optim.vit, mobilenet=optim.cnn))
schedule = _base_.param_scheduler
param_scheduler = dict(_delete_=True, convnext=schedule.vit, mobilenet=schedule.cnn)
