# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .soft_cross_entropy import (
    at_least_float32,
    multi_view_cross_entropy,
    soft_cross_entropy,
    teacher_probabilities,
)

__all__ = [
    'at_least_float32',
    'multi_view_cross_entropy',
    'soft_cross_entropy',
    'teacher_probabilities',
]
