# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from mmmokd.utils.runner import current_epoch, get_ori_model, is_epoch_based

from .atomic import atomic_write
from .errors import BadImageError, CannotWriteError, CollapseError, RunStoppedError
from .stratify import stratified_share

__all__ = [
    'BadImageError',
    'CannotWriteError',
    'CollapseError',
    'RunStoppedError',
    'atomic_write',
    'current_epoch',
    'get_ori_model',
    'is_epoch_based',
    'stratified_share',
]
