# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
num_prototypes = 65536
search_channels = 384  # width of the search heads: that of the ViT


def branch(backbone, in_channels, grid_size, **kwargs):
    """A branch; its search head projects the tokens to the search width where they differ."""
    head = dict(in_channels=in_channels, out_channels=num_prototypes)
    return dict(
        backbone=backbone,
        projector=dict(type='mmmokd.DINOProjector', **head),
        search_head=dict(
            type='mmmokd.TransformerSearchHead',
            **head,
            embed_dims=search_channels,
            projection=in_channels != search_channels,
            num_layers=3,
            num_heads=6,
            grid_size=grid_size,  # of the map of a global view
        ),
        **kwargs,
    )


cnn = branch(
    dict(type='ResNet', depth=50, zero_init_residual=False),
    in_channels=2048,
    grid_size=7,
    cross_weight=1.0,  # of L_cm and L_ct: 1 for the weaker model, 0.1 for the stronger
    heads={term: dict(warmup_teacher_temp_epochs=50) for term in ('sm', 'st')},  # others: 30
)
cnn['projector'].update(train_gain=False)

vit = branch(
    dict(type='mmmokd.VisionTransformer', arch='deit-small', patch_size=16, drop_path_rate=0.1),
    in_channels=384,
    grid_size=14,
    cross_weight=0.1,
)

model = dict(type='mmmokd.MOKD', num_global_views=2, branches=dict(cnn=cnn, vit=vit))
