# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""MOKD (Multi-Mode Online Knowledge Distillation, CVPR 2023) for mmpretrain."""

from . import registry, weights
from .version import __version__

__all__ = ['__version__', 'registry', 'weights']
