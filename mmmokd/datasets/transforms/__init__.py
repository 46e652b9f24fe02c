# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .fit_canvas import FitCanvas, canvas_size
from .loading import BadImageError, LoadImage
from .multi_crop import MultiCrop

__all__ = ['BadImageError', 'FitCanvas', 'LoadImage', 'MultiCrop', 'canvas_size']
