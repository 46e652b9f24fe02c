# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Your own images, on one GPU or on the CPU. Copy this file anywhere and edit the first lines, or
# use it as it is with --cfg-options train_dataloader.dataset.data_root=/my/images.
_base_ = [
    '../_base_/models/mokd_resnet18_vit-tiny-p16.py',
    '../_base_/datasets/folder_bs32_multi-crop.py',
    '../_base_/schedules/mokd_cnn_vit_100e.py',
    '../_base_/mokd_runtime.py',
]

data_root = 'data/images'  # your folder, nested or not; no labels (k-NN: see *_folder-knn.py)
batch_size = 32  # images per step: as many as fit into memory; learning rates follow
num_workers = 4  # data workers: about the number of CPU cores
max_epochs = 100  # more for small folders; 2 for a quick trial
global_size = 128  # global views, pixels or (height, width), multiples of 32; 224 on a fast GPU
local_size = 64  # side of the local views, a multiple of 32: 96 for global views of 224
num_local = 6  # local views per image: fewer are faster, more give a stronger signal
num_prototypes = 4096  # the paper uses 65536 for 1.3 million images
save_every = 10  # epochs between checkpoints

load, crop, pack = _base_.train_dataloader.dataset.pipeline
first, second, local = crop.groups
crop.groups = [
    dict(first, size=global_size),
    dict(second, size=global_size),
    dict(local, size=local_size, num=num_local),
]
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    dataset=dict(data_root=data_root, pipeline=[load, crop, pack]),
)
train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(type='OptimWrapper')  # --amp: mixed precision
# Warm-ups are for 100 epochs: a shorter run shortens them.
param_scheduler = {
    name: [dict(one, base_length=100) if 'warmup' in one else one for one in schedules]
    for name, schedules in _base_.param_scheduler.items()
}
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=save_every),
    head_schedule=dict(base_epochs=100),
)

model = dict(
    global_size=global_size,
    neck_defaults=dict(out_channels=num_prototypes),
    branches=dict(vit=dict(backbone=dict(img_size=global_size))),
)
