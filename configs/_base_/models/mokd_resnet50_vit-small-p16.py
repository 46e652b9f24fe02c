# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
model = dict(
    type='mmmokd.MOKD',
    num_global_views=2,
    global_size=224,  # side of the global views: position embeddings of search heads fit their map
    neck_defaults=dict(out_channels=65536, embed_dims=384),  # prototypes; width of the search heads
    branches=dict(
        cnn=dict(
            backbone=dict(type='ResNet', depth=50, zero_init_residual=False),
            projector=dict(train_gain=False),
            cross_weight=1.0,  # of L_cm and L_ct: 1 for the weaker model, 0.1 for the stronger
            heads=dict(  # others: 30
                sm=dict(warmup_teacher_temp_epochs=50), st=dict(warmup_teacher_temp_epochs=50)
            ),
        ),
        vit=dict(
            backbone=dict(
                type='mmmokd.VisionTransformer',
                arch='deit-small',
                patch_size=16,
                drop_path_rate=0.1,
            ),
            cross_weight=0.1,
        ),
    ),
)
