# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .signals import (
    PrototypeEntropy,
    effective_rank,
    feature_std,
    mutual_information,
    prototype_entropy,
)

__all__ = [
    'PrototypeEntropy',
    'effective_rank',
    'feature_std',
    'mutual_information',
    'prototype_entropy',
]
