# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The Python interface: models by name, and features of images."""

from .feature_extractor import FeatureExtractor
from .model import init_model, list_models

__all__ = ['FeatureExtractor', 'init_model', 'list_models']
