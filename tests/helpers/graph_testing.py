# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Graphs of tiny branches, and heads of which only what they read matters."""

import torch
from mokd_testing import BACKBONES, random_views
from torch import nn

from mmmokd.models import BranchHead
from mmmokd.registry import MODELS

SMALL = dict(global_size=32, neck_defaults=dict(out_channels=10, embed_dims=24))


@MODELS.register_module()
class WidthHead(BranchHead):
    """Its parameters are as wide as what it reads."""

    def __init__(self, in_channels, reads='pooled', teacher='none', loss_weight=1.0):
        super().__init__(reads, teacher, loss_weight)
        self.weight = nn.Parameter(torch.ones(in_channels))

    def loss(self, student, teacher, views):
        return self.loss_weight * (student[self.reads] * self.weight).mean()


@MODELS.register_module()
class PooledTeacherHead(BranchHead):
    """Compares a projector's output with the teacher's pooled features, both as the mean."""

    def __init__(self, reads='projector', teacher='peers', loss_weight=1.0, target_reads='pooled'):
        super().__init__(reads, teacher, loss_weight, target_reads=target_reads)

    def connect(self, student, teacher):
        widths = [student.width(self.reads), teacher.width(self.target_reads)]
        self.register_buffer('widths', torch.tensor(widths))
        if widths[0] > 10:
            raise ValueError(f'too wide: {widths}')

    def loss(self, student, teacher, views):
        means = student[self.reads].mean() - teacher[self.target_reads].mean()
        return self.loss_weight * means.square()


def backbone(kind, **kwargs):
    return dict(backbone=BACKBONES[kind], **kwargs)


def losses_of(model, **kwargs):
    return list(model(random_views(**kwargs), mode='loss'))
