# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .attention import attention_distance, uniform_attention_distance, watch_attention
from .receptive_field import effective_receptive_field, receptive_area, receptive_radius
from .signals import (
    PrototypeEntropy,
    effective_rank,
    feature_std,
    mutual_information,
    prototype_entropy,
)
from .similarity import linear_cka

__all__ = [
    'PrototypeEntropy',
    'attention_distance',
    'effective_rank',
    'effective_receptive_field',
    'feature_std',
    'linear_cka',
    'mutual_information',
    'prototype_entropy',
    'receptive_area',
    'receptive_radius',
    'uniform_attention_distance',
    'watch_attention',
]
