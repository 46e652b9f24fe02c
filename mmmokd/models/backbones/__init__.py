# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .vision_transformer import VisionTransformer

__all__ = ['VisionTransformer']
