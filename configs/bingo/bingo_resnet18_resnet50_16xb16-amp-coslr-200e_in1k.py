# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# BINGO as in its paper: a ResNet-18 learns from a ResNet-50 of MoCo v2, head included, by bags of five
# neighbors. Before the first run: python tools/dataset_converters/find_neighbors.py CONFIG
_base_ = '../_base_/offline_resnet18_resnet50_in1k.py'

# Settings to change first. Learning rates follow batch size and number of GPUs.
train_dataloader = dict(batch_size=16)
train_cfg = dict(max_epochs=200, val_interval=10)

head = dict(out_channels=128, init_cfg=dict(_base_.teacher, prefix='neck.'))
model = dict(
    type='mmmokd.BINGO',
    neck_defaults=dict(hid_channels=2048),
    branches=dict(
        resnet18=dict(heads=dict(bag=dict(queue_length=65536))), resnet50=dict(projector=head)
    ),
)

train_dataloader.update(
    dataset=dict(
        _delete_=True,
        type='mmmokd.NeighborBags',
        neighbors='work_dirs/bingo_resnet50-mocov2_in1k_neighbors.npz',
        num_neighbors=5,
        dataset=_base_.train_dataloader.dataset,
    )
)
default_hooks = dict(ema_teacher=None)
