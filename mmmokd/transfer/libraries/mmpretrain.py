# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

from mmmokd.transfer.libraries.base import LIBRARIES
from mmmokd.transfer.libraries.mmlab import MMLibrary


@LIBRARIES.register_module('mmpretrain')
class MMPretrain(MMLibrary):
    """mmpretrain: the branch's own config."""

    takes = 'any backbone'
    prefix = 'backbone.'

    def backbone_cfg(self) -> dict[str, Any]:
        cfg = dict(self.info.cfg)
        if self.info.family == 'VisionTransformer':  # its own, in place of our subclass
            cfg.pop('pos_embed_scale_offset', None)
            cfg.update(type='VisionTransformer', out_type=cfg.get('out_type', 'cls_token'))
        return cfg
