# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# The same for a segmentor: a small FCN on images with maps of COCO's panoptic classes.
# tools/dataset_converters/contiguous_labels.py makes the maps.
_base_ = (
    f'{__import__("mmseg").__path__[0]}/.mim/configs/fcn/fcn_r50-d8_4xb4-20k_voc12aug-512x512.py'
)
custom_imports = dict(imports=['mmmokd'])

data_root, label_root = 'data/coco_mini/', 'data/coco_mini_labels/'  # the latter with classes.txt
size, num_classes = (128, 128), 133

model = dict(
    pretrained=None,
    data_preprocessor=dict(size=size),
    backbone=dict(
        _delete_=True,
        type='mmpretrain.ResNet',
        depth=18,
        stem_channels=16,
        base_channels=16,
        num_stages=3,
        strides=(1, 2, 1),
        dilations=(1, 1, 2),
        out_indices=(1, 2),
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/quickstart/images_seed0/cnn-vit/epoch_7.pth',
            prefix='branches.cnn.teacher.backbone.',
        ),
    ),
    decode_head=dict(in_channels=64, in_index=1, channels=64, num_classes=num_classes),
    auxiliary_head=dict(in_channels=32, in_index=0, channels=32, num_classes=num_classes),
)
load, annotations, resize, crop, flip, distort, pad, pack = _base_.train_pipeline
resize = dict(resize, scale=(256, 192), ratio_range=(0.75, 1.5))
crop, pad = dict(crop, crop_size=size), dict(pad, size=size)
train_pipeline = [load, annotations, resize, crop, flip, distort, pad, pack]
load, resize, annotations, pack = _base_.test_pipeline
test_pipeline = [load, dict(resize, scale=(256, 192)), annotations, pack]

dataset = dict(
    _delete_=True, type='BaseSegDataset', metainfo=dict(classes=f'{label_root}classes.txt')
)
train_set, val_set = (
    dict(dataset, data_prefix=dict(img_path=data_root + x, seg_map_path=label_root + x))
    for x in ('train2017', 'val2017')
)
loader = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(loader, batch_size=8, dataset=dict(train_set, pipeline=train_pipeline))
val_dataloader = test_dataloader = dict(loader, dataset=dict(val_set, pipeline=test_pipeline))
train_cfg = dict(max_iters=1000, val_interval=1000)
optim_wrapper = dict(optimizer=dict(lr=0.02))
param_scheduler = [dict(type='PolyLR', eta_min=1e-4, power=0.9, end=1000, by_epoch=False)]
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=1000))
