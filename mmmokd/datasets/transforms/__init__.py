# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .loading import BadImageError, LoadImage
from .multi_crop import MultiCrop

__all__ = ['BadImageError', 'LoadImage', 'MultiCrop']
