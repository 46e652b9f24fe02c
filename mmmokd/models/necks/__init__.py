# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .dino_projector import DINOProjector
from .transformer_search_head import TransformerSearchHead

__all__ = ['DINOProjector', 'TransformerSearchHead']
