# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# CompRess with the branches, global views, optimizer and evaluation of MOKD's config: a ViT that an
# earlier run trained is frozen, and the CNN becomes as similar to the images in a queue.
_base_ = '../_base_/offline_resnet18_vit-tiny-p4_cifar10.py'

model = dict(
    type='mmmokd.CompRess',
    num_queues=2,  # 1: a linear layer in place of the CNN's EMA teacher
    # 128000 would hold each of the 50,000 images more than once.
    branches=dict(cnn=dict(heads=dict(kl=dict(queue_length=4096)))),
)
