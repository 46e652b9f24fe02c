# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# BINGO with the branches, global views, optimizer and evaluation of MOKD's config: a ViT that an earlier
# run trained is frozen; the CNN learns from it by bags of images that are alike for it. Before the
# first run: python tools/dataset_converters/find_neighbors.py CONFIG
_base_ = '../_base_/offline_resnet18_vit-tiny-p4_cifar10.py'

model = dict(
    type='mmmokd.BINGO',
    # 65536 would hold each of the 50,000 images more than once.
    branches=dict(cnn=dict(heads=dict(bag=dict(queue_length=4096)))),
)
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='mmmokd.NeighborBags',
        neighbors='work_dirs/bingo_resnet18_vit-tiny-p4_cifar10_neighbors.npz',
        num_neighbors=5,
        dataset=_base_.train_dataloader.dataset,
    )
)
default_hooks = dict(ema_teacher=None)
