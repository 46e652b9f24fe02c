# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .errors import BadPictureError, CollapseError, RunStoppedError
from .misc import current_epoch, get_ori_model, is_epoch_based
from .stratify import stratified_share

__all__ = [
    'BadPictureError',
    'CollapseError',
    'RunStoppedError',
    'current_epoch',
    'get_ori_model',
    'is_epoch_based',
    'stratified_share',
]
