# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .functional import cosine_schedule, warmup_cosine_schedule
from .warmup_cosine_param_scheduler import WarmupCosineParamScheduler

__all__ = ['WarmupCosineParamScheduler', 'cosine_schedule', 'warmup_cosine_schedule']
