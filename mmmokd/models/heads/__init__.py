# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .base import BranchHead
from .classification_head import ClassificationHead
from .distillation_head import (
    BaseDistillationHead,
    DistillationHead,
    SearchDistillationHead,
)
from .koleo_head import KoLeoHead
from .nt_xent_head import NTXentHead
from .similarity_distillation_head import SimilarityDistillationHead
from .view_pair_head import ViewPairHead

__all__ = [
    'BaseDistillationHead',
    'BranchHead',
    'ClassificationHead',
    'DistillationHead',
    'KoLeoHead',
    'NTXentHead',
    'SearchDistillationHead',
    'SimilarityDistillationHead',
    'ViewPairHead',
]
