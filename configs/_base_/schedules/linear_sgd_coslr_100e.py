# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Linear evaluation as DINO (arXiv 2104.14294) and MOKD do it. The learning rate is for a step of 256
# images and follows the batch size of the run; schedules follow the epochs.
train_cfg = dict(by_epoch=True, max_epochs=100, val_interval=1)
auto_scale_lr = dict(base_batch_size=256, enable=True)

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0),
)
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True, eta_min=0.0)
