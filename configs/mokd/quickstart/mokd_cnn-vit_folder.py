# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# The quick start's pair on small copies of your own images, which tools/quickstart/main.py makes and
# names in place of the folders below. For real training: ../mokd_resnet18_vit-tiny-p16_1xb32-*.
_base_ = './mokd_cnn-vit_fashion-mnist.py'

view_size, small_view_size, patch_size = 64, 40, 16
mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]  # ImageNet's

load, crop, pack = _base_.train_dataloader.dataset.pipeline
crop.groups = [
    dict(num=2, size=view_size, scale=(0.4, 1.0), blur=0.1),
    dict(num=2, size=small_view_size, scale=(0.15, 0.5), blur=0.1),
]
val_pipeline = [
    load,
    dict(type='ResizeEdge', scale=view_size, edge='short', backend='cv2'),
    dict(type='CenterCrop', crop_size=view_size),
    pack,
]

dataset = dict(_delete_=True, type='mmmokd.ImageFolder')
labeled = dict(dataset, pipeline=val_pipeline, with_label=True, test_mode=True)
train_dataloader = dict(
    dataset=dict(dataset, data_root='images/train', pipeline=[load, crop, pack])
)
val_dataloader = test_dataloader = dict(dataset=dict(labeled, data_root='images/test'))
val_cfg = dict(bank_dataloader=dict(dataset=dict(labeled, data_root='images/train')))
test_cfg = val_cfg
data_preprocessor = dict(mean=mean, std=std)

model = dict(
    global_size=view_size,
    branches=dict(
        cnn=dict(
            # A stem of stride 4, so that the map has 4 x 4 places, as with Fashion-MNIST.
            backbone=dict(
                _delete_=True, type='ResNet', depth=18, stem_channels=16, base_channels=16,
                num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(2,),
                zero_init_residual=False,
            ),
        ),
        vit=dict(backbone=dict(img_size=view_size, patch_size=patch_size)),
    )
)  # fmt: skip
