# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from mmmokd.datasets.image_folder import ImageFolder
from mmmokd.datasets.indexed_images import IndexedImages
from mmmokd.datasets.labeled_share import LabeledShare
from mmmokd.datasets.neighbor_bags import NeighborBags

from .transforms import BadImageError, FitCanvas, LoadImage, MultiCrop, canvas_size
from .walk import iter_datasets, iter_transforms, link_decoding, require_readable_images
from .worker_generator import WorkerGenerator

__all__ = [
    'BadImageError',
    'FitCanvas',
    'LabeledShare',
    'LoadImage',
    'MultiCrop',
    'ImageFolder',
    'IndexedImages',
    'NeighborBags',
    'WorkerGenerator',
    'canvas_size',
    'iter_datasets',
    'iter_transforms',
    'link_decoding',
    'require_readable_images',
]
