# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .base import BranchHead
from .distillation_head import (
    BaseDistillationHead,
    DistillationHead,
    SearchDistillationHead,
)

__all__ = [
    'BaseDistillationHead',
    'BranchHead',
    'DistillationHead',
    'SearchDistillationHead',
]
