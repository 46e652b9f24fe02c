# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Of fine-tuning and linear evaluation: that of pretraining without the hooks of MOKD's own.
_base_ = './default_runtime.py'

default_hooks = dict(
    _delete_=True,
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),  # iterations between two lines of the log
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='mmmokd.CheckpointHook', interval=1, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    accumulated_lr=dict(type='mmmokd.AccumulatedLRHook'),  # part of auto_scale_lr
    resume=dict(type='mmmokd.ResumeHook'),  # progress in images, also with other batches
    data_health=dict(type='mmmokd.DataHealthHook', max_bad_share=0.01),
    non_finite_loss=dict(type='mmmokd.NonFiniteLossHook'),
)
