# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# UPerNet with a plain ViT-S/16 for mmseg: four blocks' maps, brought to strides 4, 8, 16 and 32.
# By path: '_base_ = "mmseg::..."' looks for a package named mmsegmentation and does not find it.
_base_ = f'{__import__("mmseg").__path__[0]}/.mim/configs/_base_/models/upernet_mae.py'
custom_imports = dict(imports=['mmmokd'])

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmmokd.VisionTransformer',
        arch='deit-small',
        patch_size=16,
        img_size=224,  # of pretraining; position embeddings are resized to the image
        out_type='featmap',
        out_indices=(3, 5, 7, 11),  # as mmseg's MAE, the last after the final norm layer
        drop_path_rate=0.1,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/mokd_resnet50_vit-small-p16_16xb16-amp-coslr-100e_in1k/'
            'epoch_100.pth',
            prefix='branches.vit.teacher.backbone.',
        ),
    ),
    neck=dict(embed_dim=384, norm_cfg=dict(type='SyncBN', requires_grad=True)),
    decode_head=dict(in_channels=[384] * 4),
    auxiliary_head=dict(in_channels=384),
)
