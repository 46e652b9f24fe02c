# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .auto import AutoAdapter, adapt_features, count_extra_tokens, inner_model
from .base import BackboneAdapter

__all__ = [
    'AutoAdapter',
    'BackboneAdapter',
    'adapt_features',
    'count_extra_tokens',
    'inner_model',
]
