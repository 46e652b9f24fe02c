# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from mmmokd.structures import BackboneFeatures

from .adapters import (
    AutoAdapter,
    BackboneAdapter,
    FeatureMapAdapter,
    PyramidAdapter,
    TokenAdapter,
    adapt_features,
)
from .backbone import build_backbone, complete_backbone, describe_backbone
from .branch import Branch
from .feature_cache import FeatureCache
from .inference import BackboneSpec, infer_features
from .input_check import (
    ViewPass,
    check_gradients,
    check_views,
    find_lonely_norms,
    find_unread_parameters,
)
from .network import BranchNetwork
from .teacher import make_teacher

__all__ = [
    'AutoAdapter',
    'BackboneAdapter',
    'BackboneFeatures',
    'BackboneSpec',
    'Branch',
    'BranchNetwork',
    'FeatureCache',
    'FeatureMapAdapter',
    'PyramidAdapter',
    'TokenAdapter',
    'ViewPass',
    'adapt_features',
    'build_backbone',
    'complete_backbone',
    'check_gradients',
    'check_views',
    'describe_backbone',
    'find_lonely_norms',
    'find_unread_parameters',
    'infer_features',
    'make_teacher',
]
