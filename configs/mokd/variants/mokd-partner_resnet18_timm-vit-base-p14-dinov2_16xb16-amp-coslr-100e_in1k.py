# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# A ResNet-18 learns from DINOv2's ViT-B/14, which has no prototypes: its projector and search head
# learn them from its own views, while its backbone stays as it is and runs once a step.
_base_ = '../mokd_resnet50_vit-base-p16_16xb16-amp-coslr-100e_in1k.py'

# As Meta publishes it, or as timm does; 224 / 14 gives a map of 16 x 16.
dinov2 = dict(
    type='TIMMBackbone',
    model_name='vit_base_patch14_dinov2',
    img_size=224,
    init_cfg=dict(type='Pretrained', checkpoint='checkpoints/dinov2_vitb14_pretrain.pth'),
)
model = dict(
    branches=dict(
        cnn=dict(backbone=dict(depth=18)),
        vit=dict(
            backbone=dict(dinov2, _delete_=True),
            frozen='backbone',
            cross_weight=dict(_delete_=True),  # it learns from itself alone
        ),
    )
)
