# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .atomic import atomic_write
from .errors import BadPictureError, CannotWriteError, CollapseError, RunStoppedError
from .misc import current_epoch, get_ori_model, is_epoch_based
from .stratify import stratified_share

__all__ = [
    'BadPictureError',
    'CannotWriteError',
    'CollapseError',
    'RunStoppedError',
    'atomic_write',
    'current_epoch',
    'get_ori_model',
    'is_epoch_based',
    'stratified_share',
]
