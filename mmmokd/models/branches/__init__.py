# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .adapter import BackboneFeatures, adapt_features
from .block_tokens import BlockTokens, watch_block_tokens
from .branch import Branch, BranchNetwork, make_teacher

__all__ = [
    'BackboneFeatures',
    'BlockTokens',
    'Branch',
    'BranchNetwork',
    'adapt_features',
    'make_teacher',
    'watch_block_tokens',
]
