# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# The folder config and, every few epochs, k-NN top-1 of each branch on labeled images of yours.
# They can be the images trained on: labels only measure. Copy it, or say --cfg-options
# train_dataloader.dataset.data_root=/my/images val_dataloader.dataset.data_root=/my/labeled
# Each dataloader reads images by its own settings: pipeline.0.value_range=0,4095 of
# train_dataloader.dataset is to be said of val_dataloader.dataset, too (and of
# val_cfg.bank_dataloader.dataset if you give that a pipeline). Likewise tools/test.py and
# tools/evaluate.py read test_* only: test_dataloader.dataset.data_root=/my/labeled and the like.
_base_ = './mokd_resnet18_vit-tiny-p16_1xb32-coslr-100e_folder.py'  # or your copy of it

# A folder with a folder for each class. Of each class 80 %, always the same, are the neighbors,
# and the others are classified.
labeled = 'data/labeled'
# Or another folder of the same classes is the neighbors, and all of the first is classified;
# --cfg-options val_cfg.bank_dataloader.dataset.data_root=/my/train
neighbors = None
val_interval = 5  # epochs between two k-NN evaluations
networks = ('teacher',)  # ('teacher', 'student') for the students' accuracy, too
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
