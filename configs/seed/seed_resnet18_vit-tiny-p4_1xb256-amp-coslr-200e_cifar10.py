# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# SEED with the branches, views, optimizer and evaluation of MOKD's config: a ViT that an earlier run
# trained is frozen, and the CNN learns its pooled features.
_base_ = '../_base_/offline_resnet18_vit-tiny-p4_cifar10.py'

model = dict(
    type='mmmokd.SEED',
    num_global_views=2,
    student_views='all',
    neck_defaults=dict(hid_channels=512, out_channels=192),  # as wide as the ViT's features
    branches=dict(
        cnn=dict(
            ema=False,
            # 65536 would hold each of the 50,000 images more than once.
            heads=dict(seed=dict(target_reads='pooled', queue_length=4096)),
        )
    ),
)
train_pipeline = _base_.all_views
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
default_hooks = dict(ema_teacher=None)
