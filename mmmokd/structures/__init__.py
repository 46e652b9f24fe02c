# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .backbone_features import BackboneFeatures

__all__ = ['BackboneFeatures']
