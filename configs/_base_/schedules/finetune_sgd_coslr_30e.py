# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Fine-tuning of CNNs as SimCLR does it (arXiv 2002.05709, appendix B.5): no weight decay, no warm-up,
# no other augmentation than crops and flips; 30 epochs of 10 % of ImageNet, 60 of 1 %. The learning
# rate is for a step of 256 images and follows the batch size of the run.
train_cfg = dict(by_epoch=True, max_epochs=30, val_interval=1)
auto_scale_lr = dict(base_batch_size=256, enable=True)

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.0),
)
param_scheduler = dict(
    type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True, eta_min=0.0
)
