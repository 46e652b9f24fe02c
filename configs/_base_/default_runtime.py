# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
default_scope = 'mmpretrain'
custom_imports = dict(imports=['mmmokd'])

default_hooks = dict(
    runtime_info=dict(type='mmmokd.RuntimeInfoHook'),  # reads values when they are logged
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),  # iterations between log lines
    first_step=dict(type='mmmokd.FirstStepHook'),  # logs what a run waits for at its start
    param_scheduler=dict(type='ParamSchedulerHook'),
    # interval: epochs between checkpoints; max_keep_ckpts: checkpoints to keep, -1 for all.
    checkpoint=dict(type='mmmokd.CheckpointHook', interval=1, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    # Hooks are listed by name, so that `custom_hooks` of a config that builds on this one adds to
    # them. NAME=None leaves one out (in this package's tools).
    # compile=True: fewer and faster kernels on a GPU, after minutes at the start of the first run.
    acceleration=dict(
        type='mmmokd.AccelerationHook',
        channels_last=True,
        onednn=True,
        cuda_graphs=True,
        compile=False,
    ),
    accumulated_lr=dict(type='mmmokd.AccumulatedLRHook'),  # part of auto_scale_lr
    resume=dict(type='mmmokd.ResumeHook'),  # progress in images, also with other batches
    data_health=dict(type='mmmokd.DataHealthHook', max_bad_share=0.01),
    device_views=dict(type='mmmokd.DeviceViewsHook'),  # for views that the GPU makes
    non_finite_loss=dict(type='mmmokd.NonFiniteLossHook'),
)

visualizer = dict(
    type='UniversalVisualizer',
    vis_backends=[
        dict(type='LocalVisBackend'),
        # dict(type='TensorboardVisBackend'),
        # dict(type='mmmokd.WandbVisBackend', init_kwargs=dict(project='mokd')),
        # dict(type='mmmokd.MLflowVisBackend', exp_name='mokd'),  # into mlflow.db, or a tracking_uri
    ],
)
log_processor = dict(window_size=10, by_epoch=True)  # losses in the log: mean of 10 iterations
log_level = 'INFO'  # 'DEBUG' shows everything that is in the log file on the console

env_cfg = dict(
    cudnn_benchmark=False,  # True: cuDNN tries its algorithms, for 25 s before the first step
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
# Batch norm takes its statistics over all GPUs; without effect in one process.
sync_bn = 'torch'

# deterministic=True works on the CPU. On a GPU, the bicubic resize of position embeddings has no
# deterministic backward according to PyTorch's documentation and raises an error (not tested).
randomness = dict(seed=0, deterministic=False)
load_from = None
resume = False
