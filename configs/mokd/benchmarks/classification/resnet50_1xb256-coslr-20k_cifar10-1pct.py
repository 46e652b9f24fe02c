# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Fine-tuning of ResNet-50 with a seeded 1 % of CIFAR-10's labels. Of any other set likewise: wrap
# the dataset of its config.
_base_ = './resnet50_1xb256-coslr-20k_cifar10.py'

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='mmmokd.LabeledShare',
        share=0.01,  # of each class
        seed=0,
        dataset=_base_.train_dataloader.dataset,
    )
)
