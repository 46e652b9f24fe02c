# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .checks import check_counts, check_number
from .init import trunc_normal_linears_
from .pos_embed import resize_pos_embed_2d
from .prototypes import build_prototype_layer

__all__ = [
    'build_prototype_layer',
    'check_counts',
    'check_number',
    'resize_pos_embed_2d',
    'trunc_normal_linears_',
]
