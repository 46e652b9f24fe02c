# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Two CNNs: each is what the CNN is in the pair with a ViT.
_base_ = './mokd_resnet50_vit-small-p16_16xb16-amp-coslr-100e_in1k.py'


def resnet(depth, in_channels, **kwargs):
    cnn = _base_.model.branches.cnn
    return dict(
        cnn,
        backbone=dict(cnn.backbone, depth=depth),
        projector=dict(cnn.projector, in_channels=in_channels),
        search_head=dict(cnn.search_head, in_channels=in_channels),
        **kwargs,
    )


def like(tree):
    """The same settings for each branch as its model in the pair has."""
    return dict(_delete_=True, resnet50=tree.cnn, resnet18=tree.cnn)


model = dict(
    branches=dict(
        _delete_=True,
        resnet50=resnet(50, in_channels=2048, cross_weight=0.1),  # the stronger one
        resnet18=resnet(18, in_channels=512, cross_weight=1.0),
    )
)
optim_wrapper = dict(branches=like(_base_.optim_wrapper.branches))
param_scheduler = like(_base_.param_scheduler)
