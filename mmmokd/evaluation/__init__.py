# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .features import extract_features
from .functional import weighted_knn
from .loops import FeatureTestLoop, FeatureValLoop
from .metrics import FeatureMetric, FeatureSet, KNNMetric

__all__ = [
    'FeatureMetric',
    'FeatureSet',
    'FeatureTestLoop',
    'FeatureValLoop',
    'KNNMetric',
    'extract_features',
    'weighted_knn',
]
