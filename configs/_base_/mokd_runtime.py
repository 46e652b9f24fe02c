# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Runtime of pretraining with branches: teachers, heads and prototypes follow their schedules.
_base_ = './default_runtime.py'

default_hooks = dict(
    ema_teacher=dict(type='mmmokd.EMATeacherHook', base_momentum=0.996),
    head_schedule=dict(type='mmmokd.HeadScheduleHook'),
    prototype_freeze=dict(type='mmmokd.PrototypeFreezeHook', freeze_epochs=1),
    epoch_seed=dict(type='mmmokd.EpochSeedHook'),  # resumed runs draw the same drop path
    # Before the first step: backbones take the views' sizes, batch norms the smallest batch.
    input_check=dict(type='mmmokd.InputCheckHook'),
    collapse_monitor=dict(type='mmmokd.CollapseMonitorHook', interval=50),
)
