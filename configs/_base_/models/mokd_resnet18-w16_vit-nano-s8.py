# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# A CNN and a ViT that train on a CPU, for images of 28 x 28 pixels; both have maps of 4 x 4.
# A run of minutes is too short to unlearn, as the first epochs of a recipe do, that the features of a
# new network all point in about the same direction. Norms in the projector and sharp targets for m
# compensate for it. For t, sharp targets left few prototypes in use: it has the recipe's last one.
sharper, sharp, soft = (dict(warmup_teacher_temp=t, teacher_temp=t) for t in (0.01, 0.02, 0.07))
projector = dict(hid_channels=256, bottleneck_channels=64, norm_cfg=dict(type='BN1d'))
search_head = dict(num_layers=1, num_heads=2)

model = dict(
    type='mmmokd.MOKD',
    global_size=28,
    neck_defaults=dict(out_channels=256, embed_dims=64),
    branches=dict(
        cnn=dict(
            backbone=dict(
                type='ResNet_CIFAR', depth=18, stem_channels=16, base_channels=16, num_stages=3,
                strides=(2, 2, 2), dilations=(1, 1, 1), out_indices=(2,), zero_init_residual=False,
            ),
            projector=projector,
            search_head=dict(search_head, projection=True),
            cross_weight=0.1,
            heads=dict(sm=sharper, cm=sharp, st=soft, ct=soft),
        ),
        vit=dict(
            backbone=dict(
                # A stem of convolutions, and the mean of the tokens for a pooled feature: patches of
                # pixels and a class token need more images than a run of minutes has.
                type='mmmokd.VisionTransformer', img_size=28, patch_size=8,
                patch_cfg=dict(conv_type='mmmokd.ConvStem'),
                arch=dict(embed_dims=64, num_layers=3, num_heads=2, feedforward_channels=256),
                with_cls_token=False, out_type='featmap',
            ),
            projector=projector,
            search_head=search_head,
            cross_weight=1.0,  # the weaker one of the two
            heads=dict(sm=sharp, cm=sharp, st=soft, ct=soft),
        ),
    ),
)  # fmt: skip
