# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Cross-entropy beside MOKD's own terms, on the images that have a label: 10 % of each class.
_base_ = '../mokd_resnet18_vit-tiny-p4_1xb256-amp-coslr-200e_cifar10.py'

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='mmmokd.LabeledShare',
        share=0.1,
        unlabeled=True,  # the other images stay, without a label
        dataset=_base_.train_dataloader.dataset,
    )
)
ce = dict(type='mmmokd.ClassificationHead', num_classes=10)
model = dict(branches=dict(cnn=dict(heads=dict(ce=ce)), vit=dict(heads=dict(ce=ce))))
