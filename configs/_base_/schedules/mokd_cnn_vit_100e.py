# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
max_epochs = 100
warmup_epochs = 10

train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=10)
# Learning rates are for a step of 256 images, and follow those of the run's step: batch size x
# processes x accumulative_counts.
auto_scale_lr = dict(base_batch_size=256, enable=True)

optim_wrapper = dict(
    constructor='mmmokd.BranchOptimWrapperConstructor',
    type='AmpOptimWrapper',  # 'OptimWrapper' without mixed precision
    dtype='auto',  # 'bfloat16' where the device has it, else 'float16' on a GPU
    loss_scale='dynamic',  # of float16 alone
    accumulative_counts=1,  # batches per optimizer step: more if memory is short
    clip_grad=dict(max_norm=3.0, per_parameter=True),
    branches=dict(
        cnn=dict(
            optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4),
            # Its search head learns as the ViT does, and all of it is decayed.
            parts=dict(search_head=dict(lr=3e-4, weight_decay=0.04, decay_all=True)),
        ),
        vit=dict(optimizer=dict(type='AdamW', lr=3e-4, weight_decay=0.04)),
    ),
)

cosine = dict(
    type='mmmokd.WarmupCosineParamScheduler',
    by_epoch=True,
    convert_to_iter_based=True,  # in every iteration; spans the run, whatever its length
)
lr = dict(cosine, param_name='lr', warmup=warmup_epochs)
weight_decay = dict(cosine, param_name='weight_decay')
param_scheduler = dict(
    cnn=[
        dict(lr, final=0.0048),
        dict(lr, final=1e-5, part='search_head'),
        dict(weight_decay, final=0.4, part='search_head'),
    ],
    vit=[
        dict(lr, final=1e-5, part='main'),
        dict(weight_decay, final=0.4, part='main'),
    ],
)
