# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .auto import AutoAdapter, adapt_features, count_extra_tokens, inner_model
from .base import BackboneAdapter
from .feature_map import FeatureMapAdapter
from .grid import infer_grid
from .pyramid import PyramidAdapter
from .tokens import TokenAdapter

__all__ = [
    'AutoAdapter',
    'BackboneAdapter',
    'FeatureMapAdapter',
    'PyramidAdapter',
    'TokenAdapter',
    'adapt_features',
    'count_extra_tokens',
    'infer_grid',
    'inner_model',
]
