# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# A CNN and a ViT that train on a CPU, for pictures of 28 x 28 pixels; both have maps of 4 x 4.
num_prototypes = 256
search_channels = 96
# The CNN's features, all positive, differ little in direction: its m needs sharper targets.
temps = dict(warmup_teacher_temp=0.01, teacher_temp=0.01)


def branch(backbone, in_channels, **kwargs):
    head = dict(in_channels=in_channels, out_channels=num_prototypes)
    return dict(
        backbone=backbone,
        projector=dict(
            type='mmmokd.DINOProjector', **head, hid_channels=256, bottleneck_channels=64
        ),
        search_head=dict(
            type='mmmokd.TransformerSearchHead',
            **head,
            embed_dims=search_channels,
            projection=in_channels != search_channels,
            num_layers=1,
            num_heads=3,
            grid_size=4,
        ),
        **kwargs,
    )


cnn = branch(
    dict(
        type='ResNet_CIFAR', depth=18, stem_channels=16, base_channels=16, num_stages=3,
        strides=(2, 2, 2), dilations=(1, 1, 1), out_indices=(2,), zero_init_residual=False,
    ),
    in_channels=64,
    cross_weight=0.1,
    heads=dict(sm=temps),
)  # fmt: skip
vit = branch(
    dict(
        type='mmmokd.VisionTransformer', img_size=28, patch_size=7,
        arch=dict(embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384),
        # Its pooled feature is the mean of the tokens, which is worth more than a class token in a
        # network that has seen so little.
        with_cls_token=False, out_type='featmap',
    ),
    in_channels=96,
    cross_weight=1.0,  # the weaker one of the two
    heads=dict(cm=temps),
)  # fmt: skip
model = dict(type='mmmokd.MOKD', branches=dict(cnn=cnn, vit=vit))
# Used above only; deleted, so that to override them from outside is an error.
del num_prototypes, search_channels, temps, cnn, vit
