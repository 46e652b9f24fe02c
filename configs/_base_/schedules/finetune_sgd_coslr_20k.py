# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Transfer of CNNs as SimCLR does it (arXiv 2002.05709, appendix B.8): 20,000 steps of 256 images on
# every set. It searches learning rate (0.0001 to 0.1) and weight decay (none, or 1e-6 to 1e-3, divided
# by the learning rate) on a validation set; these are the middle of the grid. Momentum of the BN
# statistics: PyTorch's.
train_cfg = dict(by_epoch=False, max_iters=20000, val_interval=2000)
auto_scale_lr = dict(base_batch_size=256, enable=True)

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4),
)
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=False, eta_min=0.0)
