# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .concat_features import ConcatFeatures
from .dino_projector import DINOProjector
from .simple_feature_pyramid import SimpleFeaturePyramid
from .transformer_search_head import TransformerSearchHead

__all__ = ['ConcatFeatures', 'DINOProjector', 'SimpleFeaturePyramid', 'TransformerSearchHead']
