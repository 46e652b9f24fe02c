# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .conv_stem import ConvStem
from .vision_transformer import VisionTransformer

__all__ = ['ConvStem', 'VisionTransformer']
