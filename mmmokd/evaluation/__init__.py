# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .features import extract_features
from .functional import linear_probe, nearest_neighbors, weighted_knn
from .loops import FeatureTestLoop, FeatureValLoop
from .metrics import FeatureMetric, FeatureSet, KNNMetric, LinearProbeMetric

__all__ = [
    'FeatureMetric',
    'FeatureSet',
    'FeatureTestLoop',
    'FeatureValLoop',
    'KNNMetric',
    'LinearProbeMetric',
    'extract_features',
    'linear_probe',
    'nearest_neighbors',
    'weighted_knn',
]
