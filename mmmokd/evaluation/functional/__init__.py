# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .knn import check_num_neighbors, weighted_knn

__all__ = ['check_num_neighbors', 'weighted_knn']
