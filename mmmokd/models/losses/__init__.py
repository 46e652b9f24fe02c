# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .nt_xent import NTXent, nt_xent
from .prototype_cross_entropy import Target, prototype_cross_entropies
from .similarity_kl import cosines, similarity_kl
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
    'cosines',
    'multi_view_cross_entropy',
    'nt_xent',
    'prototype_cross_entropies',
    'similarity_kl',
    'soft_cross_entropy',
    'teacher_probabilities',
]
