# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from mmmokd.models.heads import BranchHead


class Head(BranchHead):
    def loss(self, student, teacher, views):
        return student[self.reads].mean() * self.loss_weight


def test_arguments():
    head = Head('pooled', teacher='none', loss_weight=0.5)
    assert (head.reads, head.teacher, head.loss_weight) == ('pooled', 'none', 0.5)
    assert head.loss(dict(pooled=torch.ones(2, 2)), None, None) == 0.5
    assert head.set_epoch(3) == {}


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (
            dict(teacher='mine'),
            "teacher of Head must be one of 'own', 'peers', 'none', but got 'mine'",
        ),
        (dict(loss_weight=-1), 'loss_weight of Head must be a number >= 0, but got -1'),
    ],
)
def test_wrong_arguments(settings, message):
    with pytest.raises(ValueError, match=message):
        Head('pooled', **settings)


def test_loss_is_needed():
    with pytest.raises(TypeError, match='abstract'):
        BranchHead('pooled')
