# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .misc import current_epoch, get_ori_model, is_epoch_based
from .stratify import stratified_share

__all__ = ['current_epoch', 'get_ori_model', 'is_epoch_based', 'stratified_share']
