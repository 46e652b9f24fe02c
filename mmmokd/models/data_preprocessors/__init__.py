# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .image_bank import ImageBank, LabeledBatch
from .multi_crop import MultiCropDataPreprocessor

__all__ = ['ImageBank', 'LabeledBatch', 'MultiCropDataPreprocessor']
