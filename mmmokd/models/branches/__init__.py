# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from mmmokd.evaluation.block_tokens import BlockTokens, watch_block_tokens

from .adapter import BackboneFeatures, adapt_features
from .backbone import build_backbone, describe_backbone
from .branch import Branch, BranchNetwork, make_teacher
from .input_check import ViewPass, check_views, find_lonely_norms

__all__ = [
    'BackboneFeatures',
    'BlockTokens',
    'Branch',
    'BranchNetwork',
    'ViewPass',
    'adapt_features',
    'build_backbone',
    'check_views',
    'describe_backbone',
    'find_lonely_norms',
    'make_teacher',
    'watch_block_tokens',
]
