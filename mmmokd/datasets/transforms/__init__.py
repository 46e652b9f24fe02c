# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .loading import BadPictureError, LoadPicture
from .multi_crop import MultiCrop

__all__ = ['BadPictureError', 'LoadPicture', 'MultiCrop']
