# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# The same of the quick start's ViT, whose sizes are those of the pair's config.
# model.backbone.frozen_stages=3 trains the head alone.
_base_ = './cnn_1xb20-coslr-50e_fashion-mnist-1pct.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmmokd.VisionTransformer',
        img_size=28,
        patch_size=8,
        patch_cfg=dict(conv_type='mmmokd.ConvStem'),
        arch=dict(embed_dims=64, num_layers=3, num_heads=2, feedforward_channels=256),
        with_cls_token=False,
        out_type='featmap',
        init_cfg=dict(
            type='Pretrained',
            checkpoint=_base_.model.backbone.init_cfg.checkpoint,
            prefix='branches.vit.teacher.backbone.',
        ),
    )
)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=3e-4, weight_decay=0.05),
    paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=100))),
)
