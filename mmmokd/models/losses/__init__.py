# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .contrastive import contrastive_cosines, cosines, info_nce, similarity_kl
from .nt_xent import NTXent, nt_xent
from .prototype_cross_entropy import Target, prototype_cross_entropies
from .sinkhorn import sinkhorn_knopp
from .soft_cross_entropy import (
    at_least_float32,
    multi_view_cross_entropy,
    soft_cross_entropy,
    teacher_probabilities,
)

__all__ = [
    'NTXent',
    'Target',
    'at_least_float32',
    'contrastive_cosines',
    'cosines',
    'info_nce',
    'multi_view_cross_entropy',
    'nt_xent',
    'prototype_cross_entropies',
    'sinkhorn_knopp',
    'similarity_kl',
    'soft_cross_entropy',
    'teacher_probabilities',
]
