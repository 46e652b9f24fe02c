# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .base import BranchHead
from .classification_head import ClassificationHead
from .contrastive_head import ContrastiveHead, SoftContrastiveHead
from .distillation_head import (
    BaseDistillationHead,
    DistillationHead,
    SearchDistillationHead,
)
from .koleo_head import KoLeoHead
from .seed_head import SEEDHead
from .view_pair_head import ViewPairHead

__all__ = [
    'BaseDistillationHead',
    'BranchHead',
    'ClassificationHead',
    'ContrastiveHead',
    'DistillationHead',
    'KoLeoHead',
    'SEEDHead',
    'SearchDistillationHead',
    'SoftContrastiveHead',
    'ViewPairHead',
]
