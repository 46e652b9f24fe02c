# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .base import BranchHead
from .bingo_head import BINGOHead
from .classification_head import ClassificationHead
from .compress_head import CompRessHead
from .contrastive_head import ContrastiveHead, SoftContrastiveHead
from .disco_head import DisCoHead
from .distillation_head import (
    BaseDistillationHead,
    DistillationHead,
    SearchDistillationHead,
)
from .info_nce_head import QueueInfoNCEHead
from .koleo_head import KoLeoHead
from .masked_patch_head import MaskedPatchHead
from .nt_xent_head import NTXentHead
from .offline_head import OfflineHead
from .seed_head import SEEDHead
from .similarity_distillation_head import SimilarityDistillationHead
from .swav_head import SwAVHead
from .view_pair_head import ViewPairHead

__all__ = [
    'BINGOHead',
    'BaseDistillationHead',
    'BranchHead',
    'ClassificationHead',
    'CompRessHead',
    'ContrastiveHead',
    'DisCoHead',
    'DistillationHead',
    'KoLeoHead',
    'MaskedPatchHead',
    'NTXentHead',
    'OfflineHead',
    'QueueInfoNCEHead',
    'SEEDHead',
    'SearchDistillationHead',
    'SimilarityDistillationHead',
    'SoftContrastiveHead',
    'SwAVHead',
    'ViewPairHead',
]
