# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .warmup_cosine_param_scheduler import WarmupCosineParamScheduler

__all__ = ['WarmupCosineParamScheduler']
