# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Evaluation of the quick start's CNN: fine-tuning with ten labels of each class of Fashion-MNIST, in
# a minute on a CPU. tools/benchmarks/benchmark_transfer.py compares what it starts from.
# model.backbone.frozen_stages=3 model.backbone.norm_eval=True trains the head alone.
_base_ = [
    '../../../_base_/models/mokd_resnet18-w16_vit-nano-s8.py',
    '../../../_base_/datasets/fashion-mnist_bs64_multi-crop.py',
    '../../../_base_/default_runtime.py',
]

branch = 'cnn'
work_dirs = 'work_dirs/quickstart/fashion_mnist_seed0'
share = 0.01  # of the labels of each class

model = dict(
    _delete_=True,
    type='ImageClassifier',
    backbone=dict(
        **_base_.model.branches[branch].backbone,
        init_cfg=dict(
            type='Pretrained',
            checkpoint=f'{work_dirs}/cnn-vit/epoch_5.pth',
            prefix=f'branches.{branch}.teacher.backbone.',
        ),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
)
data_preprocessor = dict(
    _delete_=True, num_classes=10, mean=[72.94] * 3, std=[90.02] * 3, to_rgb=True
)

load, pack = _base_.val_dataloader.dataset.pipeline
images = dict(
    _base_.train_dataloader.dataset,
    pipeline=[load, dict(type='RandomCrop', crop_size=28, padding=2), pack],
)
train_dataloader = dict(
    batch_size=20,
    num_workers=0,
    drop_last=False,
    persistent_workers=False,
    dataset=dict(_delete_=True, type='mmmokd.LabeledShare', share=share, seed=0, dataset=images),
)
val_cfg = test_cfg = dict(_delete_=True)
val_evaluator = test_evaluator = dict(_delete_=True, type='Accuracy', topk=(1, 5))

train_cfg = dict(by_epoch=True, max_epochs=50, val_interval=50)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.005, momentum=0.9, nesterov=True, weight_decay=1e-4),
    paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=20))),  # new, and 250 steps to learn
)
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True, eta_min=0.0)
default_hooks = dict(checkpoint=dict(interval=50), logger=dict(interval=5))
