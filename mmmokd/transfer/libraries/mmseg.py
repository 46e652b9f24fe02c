# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

from mmmokd.transfer.libraries.base import LIBRARIES
from mmmokd.transfer.libraries.mmlab import MMLibrary


@LIBRARIES.register_module('mmseg')
class MMSeg(MMLibrary):
    """mmseg: its own ResNet and ViT, or any backbone of mmpretrain."""

    takes = "any backbone: a ResNet or a ViT as mmseg's own, others as mmpretrain's"
    install_hint = 'pip install -r requirements/seg.txt'
    models = 'mmseg.models'

    def backbone_cfg(self) -> dict[str, Any]:
        info = self.info
        if info.family == 'ResNet':
            return self.own_resnet()
        if not (info.is_vit and info.class_token):
            return self.mmpretrains()
        return dict(
            type='mmseg.VisionTransformer',
            img_size=info.img_size,
            patch_size=info.patch,
            embed_dims=info.width,
            num_layers=sum(info.blocks),
            num_heads=info.heads,
            mlp_ratio=info.mlp_ratio,
            norm_cfg=dict(type='LN', eps=1e-6),
            patch_bias=True,
            final_norm=True,
        )
