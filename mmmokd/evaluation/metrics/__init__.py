# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .feature_metric import FeatureMetric, FeatureSet
from .knn_metric import KNNMetric

__all__ = ['FeatureMetric', 'FeatureSet', 'KNNMetric']
