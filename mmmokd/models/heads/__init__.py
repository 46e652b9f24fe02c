# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .base import BranchHead
from .classification_head import ClassificationHead
from .distillation_head import (
    BaseDistillationHead,
    DistillationHead,
    SearchDistillationHead,
)
from .koleo_head import KoLeoHead
from .masked_patch_head import MaskedPatchHead
from .swav_head import SwAVHead
from .view_pair_head import ViewPairHead

__all__ = [
    'BaseDistillationHead',
    'BranchHead',
    'ClassificationHead',
    'DistillationHead',
    'KoLeoHead',
    'MaskedPatchHead',
    'SearchDistillationHead',
    'SwAVHead',
    'ViewPairHead',
]
