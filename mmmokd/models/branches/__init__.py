# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .adapter import BackboneFeatures, adapt_features
from .backbone import build_backbone, describe_backbone
from .branch import Branch, BranchNetwork, make_teacher
from .input_check import ViewGroup, check_views, find_lonely_norms

__all__ = [
    'BackboneFeatures',
    'Branch',
    'BranchNetwork',
    'ViewGroup',
    'adapt_features',
    'build_backbone',
    'check_views',
    'describe_backbone',
    'find_lonely_norms',
    'make_teacher',
]
