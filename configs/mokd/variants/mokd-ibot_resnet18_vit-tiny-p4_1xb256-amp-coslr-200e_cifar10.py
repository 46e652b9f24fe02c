# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# iBOT (arXiv 2111.07832) in the ViT: masked patches predict what its teacher makes of them. iBOT's
# term of the class token is L_sm. A CNN has no patches to mask: it has MOKD's terms.
_base_ = '../mokd_resnet18_vit-tiny-p4_1xb256-amp-coslr-200e_cifar10.py'

patch = dict(
    type='mmmokd.MaskedPatchHead',
    reads='patch_projector',  # 'projector': one for both terms
    mask_ratio=(0.1, 0.5),
    mask_prob=0.5,
    mask_blocks=True,
)
model = dict(
    branches=dict(
        vit=dict(
            patch_projector=dict(type='mmmokd.DINOProjector', out_channels=4096),
            heads=dict(patch=patch),
        ),
    ),
)
