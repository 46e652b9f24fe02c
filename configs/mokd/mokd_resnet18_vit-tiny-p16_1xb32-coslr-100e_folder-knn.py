# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# The folder config with k-NN top-1 of each branch, every few epochs, on your own labeled images.
# These may be the training images; labels are used for evaluation only. Copy it, or use --cfg-options
# train_dataloader.dataset.data_root=/my/images val_dataloader.dataset.data_root=/my/labeled
# Each dataloader has its own settings for reading images: pipeline.0.value_range=0,4095 of
# train_dataloader.dataset has to be set for val_dataloader.dataset as well (and for
# val_cfg.bank_dataloader.dataset if that has a pipeline). Similarly, tools/test.py and
# tools/evaluate.py read only test_*, such as test_dataloader.dataset.data_root=/my/labeled.
_base_ = './mokd_resnet18_vit-tiny-p16_1xb32-coslr-100e_folder.py'  # or your copy of it

# A folder of class folders. 80 % of each class, always the same images, form the feature bank,
# and the others are classified.
labeled = 'data/labeled'
# Optionally, another folder of the same classes is the feature bank, and all of `labeled` is classified:
# --cfg-options val_cfg.bank_dataloader.dataset.data_root=/my/train
neighbors = None
val_interval = 5  # epochs between k-NN evaluations
networks = ('teacher',)  # ('teacher', 'student') for the students' accuracy as well
k = 20  # neighbors that vote

pipeline = _base_.train_dataloader.dataset.pipeline
load, pack = pipeline[0], pipeline[-1]
size = next(transform for transform in pipeline if 'groups' in transform).groups[0].size
height, width = (size, size) if isinstance(size, int) else size
edge = max(height, width) * 256 // 224
val_dataloader = dict(
    batch_size=64,
    num_workers=_base_.train_dataloader.num_workers,
    dataset=dict(
        type='mmmokd.ImageFolder',
        data_root=labeled,
        with_label=True,
        test_mode=True,
        pipeline=[
            load,
            dict(type='ResizeEdge', scale=edge, edge='short', backend='pillow',
                 interpolation='bicubic'),
            dict(type='CenterCrop', crop_size=size if height == width else (width, height)),
            pack,
        ],
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
)  # fmt: skip
train_cfg = dict(val_interval=val_interval)
val_cfg = dict(type='mmmokd.FeatureValLoop', networks=networks)
if neighbors:
    val_cfg['bank_dataloader'] = dict(dataset=dict(data_root=neighbors))
val_evaluator = dict(type='mmmokd.KNNMetric', k=k)
test_dataloader, test_evaluator = val_dataloader, val_evaluator
test_cfg = dict(val_cfg, type='mmmokd.FeatureTestLoop')
