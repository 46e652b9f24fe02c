# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .knn import check_num_neighbors, nearest_neighbors, weighted_knn
from .linear_probe import (
    LinearClassifiers,
    LinearProbe,
    check_probe_settings,
    classify_linear,
    linear_probe,
    train_linear,
)

__all__ = [
    'LinearClassifiers',
    'LinearProbe',
    'check_num_neighbors',
    'check_probe_settings',
    'classify_linear',
    'linear_probe',
    'nearest_neighbors',
    'train_linear',
    'weighted_knn',
]
