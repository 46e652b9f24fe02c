# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .distillation_head import (
    BaseDistillationHead,
    DistillationHead,
    SearchDistillationHead,
    warmup_teacher_temp,
)

__all__ = [
    'BaseDistillationHead',
    'DistillationHead',
    'SearchDistillationHead',
    'warmup_teacher_temp',
]
