# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

from mmmokd.transfer.libraries.base import LIBRARIES
from mmmokd.transfer.libraries.mmlab import MMLibrary


@LIBRARIES.register_module('mmdet')
class MMDet(MMLibrary):
    """mmdet: its own ResNet, or any backbone of mmpretrain, as it has no plain ViT."""

    takes = "any backbone: a ResNet as mmdet's own, others as mmpretrain's"
    install_hint = (
        'pip install -r requirements/det.txt, and mmcv with operators: tools/build_mmcv_ops.sh'
    )
    models = 'mmdet.models'

    def backbone_cfg(self) -> dict[str, Any]:
        return self.own_resnet() if self.info.family == 'ResNet' else self.mmpretrains()
