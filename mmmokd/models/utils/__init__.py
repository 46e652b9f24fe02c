# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .checks import check_counts, check_number
from .init import trunc_normal_linears_
from .prototypes import build_prototype_layer

__all__ = [
    'build_prototype_layer',
    'check_counts',
    'check_number',
    'trunc_normal_linears_',
]
