# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The libraries that a backbone can be exported to, a module each; light to import."""

# isort: off
# In the order of the choices of `--to`.
from .base import LIBRARIES, Library, build_library, find_library
from .mmpretrain import MMPretrain
from .mmdet import MMDet
from .mmseg import MMSeg
from .timm import Timm
from .torchvision import TorchVision
from .transformers import Transformers
from .detectron2 import Detectron2
# isort: on

__all__ = [
    'LIBRARIES',
    'Detectron2',
    'Library',
    'MMDet',
    'MMPretrain',
    'MMSeg',
    'Timm',
    'TorchVision',
    'Transformers',
    'build_library',
    'find_library',
]
