# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .feature_metric import FeatureMetric, FeatureSet
from .knn_metric import KNNMetric
from .linear_probe_metric import LinearProbeMetric

__all__ = ['FeatureMetric', 'FeatureSet', 'KNNMetric', 'LinearProbeMetric']
