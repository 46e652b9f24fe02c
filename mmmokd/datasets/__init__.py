# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .labelled_share import LabelledShare
from .picture_folder import PictureFolder
from .transforms import BadPictureError, LoadPicture, MultiCrop
from .walk import iter_datasets, iter_transforms
from .worker_generator import WorkerGenerator

__all__ = [
    'BadPictureError',
    'LabelledShare',
    'LoadPicture',
    'MultiCrop',
    'PictureFolder',
    'WorkerGenerator',
    'iter_datasets',
    'iter_transforms',
]
