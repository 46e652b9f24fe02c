# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .ema_teacher_hook import EMATeacherHook
from .head_schedule_hook import HeadScheduleHook
from .prototype_freeze_hook import PrototypeFreezeHook

__all__ = ['EMATeacherHook', 'HeadScheduleHook', 'PrototypeFreezeHook']
