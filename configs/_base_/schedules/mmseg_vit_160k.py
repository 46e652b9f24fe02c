# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Fine-tuning a ViT with mmseg, 160,000 iterations.
# By path: '_base_ = "mmseg::..."' looks for a package named mmsegmentation and does not find it.
_base_ = f'{__import__("mmseg").__path__[0]}/.mim/configs/_base_/schedules/schedule_160k.py'

# As mmseg's UPerNet with MAE (arXiv 2111.06377): AdamW with 1e-4 for 16 images, 0.65 times that in
# each earlier block, weight decay 0.05 on all but 1-d parameters, position embeddings and the class
# token; 1,500 iterations of warm-up, then linearly to 0. Not tuned for MOKD.
optim_wrapper = dict(
    constructor='mmmokd.LayerDecayOptimWrapperConstructor',
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(
        layer_decay_rate=0.65,
        flat_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={
            '.pos_embed': dict(decay_mult=0.0),
            '.cls_token': dict(decay_mult=0.0),
        },
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=1500, by_epoch=False),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=1500, end=160000, by_epoch=False),
]
auto_scale_lr = dict(enable=False, base_batch_size=16)  # --auto-scale-lr: for other batches
