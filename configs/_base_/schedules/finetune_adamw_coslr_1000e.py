# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Transfer of ViTs as DINO does it (arXiv 2104.14294, section 4.4; the numbers are in issue 81 of its
# repository), but for repeated augmentation: DeiT's recipe with a far lower learning rate. It is for a
# step of 768 images and follows the batch size of the run; schedules follow the epochs.
_base_ = './finetune_adamw_coslr_200e.py'

train_cfg = dict(max_epochs=1000, val_interval=50)
auto_scale_lr = dict(base_batch_size=768)
optim_wrapper = dict(
    optimizer=dict(lr=7.5e-6),
    # None: at such a learning rate no layer forgets what it has learned.
    paramwise_cfg=dict(layer_decay_rate=1.0),
)
param_scheduler = dict(warmup=5, final=1e-6)
