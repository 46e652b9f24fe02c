# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Two ViTs, searching each other at the smaller one's width; the larger one's tokens are projected.
_base_ = './mokd_resnet50_vit-small-p16_16xb16-amp-coslr-100e_in1k.py'


def vit(arch, in_channels, **kwargs):
    small = _base_.model.branches.vit
    search_head = dict(
        small.search_head,
        in_channels=in_channels,
        projection=in_channels != small.search_head.embed_dims,
    )
    return dict(
        small,
        backbone=dict(small.backbone, arch=arch),
        projector=dict(small.projector, in_channels=in_channels),
        search_head=search_head,
        **kwargs,
    )


def like(tree):
    """The same settings for each branch as its model in the pair has."""
    return dict(_delete_=True, vit_base=tree.vit, vit_small=tree.vit)


model = dict(
    branches=dict(
        _delete_=True,
        vit_base=vit('deit-base', in_channels=768, cross_weight=0.1),  # the stronger one
        vit_small=vit('deit-small', in_channels=384, cross_weight=1.0),
    )
)
optim_wrapper = dict(branches=like(_base_.optim_wrapper.branches))
param_scheduler = like(_base_.param_scheduler)
