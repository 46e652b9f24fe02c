# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Fine-tuning of ViTs on ImageNet as iBOT (arXiv 2111.07832) does it, whose pretraining is the nearest:
# ViT-S for 200 epochs with a layer decay of 0.75, ViT-B for 100 with 0.65. It searches the learning
# rate; 1e-3 is our choice. It is for a step of 1024 images and follows the batch size of the run;
# schedules follow the epochs.
train_cfg = dict(by_epoch=True, max_epochs=200, val_interval=1)
auto_scale_lr = dict(base_batch_size=1024, enable=True)

optim_wrapper = dict(
    constructor='mmmokd.LayerDecayOptimWrapperConstructor',
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(
        # Layer l of 13 learns with lr * 0.75^(13 - l): early layers see edges and textures, which any
        # set shares, and keep more of what they have learned; late ones have to fit the classes.
        layer_decay_rate=0.75,
        flat_decay_mult=0.0,
        custom_keys={'.cls_token': dict(decay_mult=0.0), '.pos_embed': dict(decay_mult=0.0)},
    ),
)
param_scheduler = dict(
    type='mmmokd.WarmupCosineParamScheduler',
    param_name='lr',
    warmup=20,
    final=1e-6,
    by_epoch=True,
    convert_to_iter_based=True,
)
