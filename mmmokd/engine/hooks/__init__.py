# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .acceleration_hook import AccelerationHook
from .accumulated_lr_hook import AccumulatedLRHook
from .checkpoint_check_hook import CheckpointCheckHook
from .checkpoint_hook import CheckpointHook
from .collapse_monitor_hook import CollapseMonitorHook
from .data_health_hook import DataHealthHook
from .device_views_hook import DeviceViewsHook
from .ema_teacher_hook import EMATeacherHook
from .epoch_seed_hook import EpochSeedHook
from .first_step_hook import FirstStepHook
from .head_schedule_hook import HeadScheduleHook
from .initial_val_hook import InitialValHook
from .input_check_hook import InputCheckHook
from .non_finite_loss_hook import NonFiniteLossHook
from .optimizer_check_hook import OptimizerCheckHook
from .prototype_freeze_hook import PrototypeFreezeHook
from .resume_hook import ResumeHook
from .runtime_info_hook import RuntimeInfoHook

__all__ = [
    'AccelerationHook',
    'AccumulatedLRHook',
    'CheckpointCheckHook',
    'CheckpointHook',
    'CollapseMonitorHook',
    'DataHealthHook',
    'DeviceViewsHook',
    'EMATeacherHook',
    'EpochSeedHook',
    'FirstStepHook',
    'HeadScheduleHook',
    'InitialValHook',
    'InputCheckHook',
    'NonFiniteLossHook',
    'OptimizerCheckHook',
    'PrototypeFreezeHook',
    'ResumeHook',
    'RuntimeInfoHook',
]
