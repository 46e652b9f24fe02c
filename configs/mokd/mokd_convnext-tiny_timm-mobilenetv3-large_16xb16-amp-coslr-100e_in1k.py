# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Any backbone of mmpretrain or timm can be a branch: here one of each. ConvNeXt learns as the ViT of
# the pair does (AdamW), MobileNetV3 as the CNN (SGD).
_base_ = './mokd_resnet50_vit-small-p16_16xb16-amp-coslr-100e_in1k.py'


def branch(like, backbone, in_channels):
    """As a branch of the pair, with another backbone and its number of channels."""
    like = _base_.model.branches[like]
    search_head = dict(
        like.search_head, in_channels=in_channels, projection=True, grid_size=7
    )  # both have stride 32: 224 / 32 = 7
    return dict(
        like,
        backbone=backbone,
        projector=dict(like.projector, in_channels=in_channels),
        search_head=search_head,
    )


def like(tree):
    return dict(_delete_=True, convnext=tree.vit, mobilenet=tree.cnn)


model = dict(
    branches=dict(
        _delete_=True,
        convnext=branch(
            'vit',
            dict(type='ConvNeXt', arch='tiny', drop_path_rate=0.1, gap_before_final_norm=False),
            in_channels=768,
        ),
        mobilenet=branch(
            'cnn',
            dict(
                type='TIMMBackbone',
                model_name='mobilenetv3_large_100',
                features_only=True,
                out_indices=(4,),
            ),
            in_channels=960,
        ),
    )
)
optim_wrapper = dict(branches=like(_base_.optim_wrapper.branches))
param_scheduler = like(_base_.param_scheduler)
