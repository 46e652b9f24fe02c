# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from mmengine.registry import DefaultScope
from mokd_testing import branch_cfg

from mmmokd.models import MOKD
from mmmokd.models.branches import Branch
from mmmokd.models.branches.terms import resolve_heads


def build(peers=None, heads=None):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        heads = resolve_heads(MOKD.terms, heads, bool(peers))
        return Branch(**branch_cfg('vit'), heads=heads, peers=peers)


def test_settings_of_the_heads():
    heads = dict(sm=dict(student_temp=0.2), cm=dict(center_momentum=0.5), ct=dict(loss_weight=3.0))
    branch = build(dict(a=0.1, b=0.2), heads)
    assert branch.heads['sm'].student_temp == 0.2 and branch.heads['st'].student_temp == 0.1
    assert [head.center_momentum for head in branch.heads['cm'].values()] == [0.5, 0.5]
    weights = [(term, peer, head.loss_weight) for term, peer, head in branch.terms()]
    assert weights == [
        ('sm', None, 1.0), ('st', None, 1.0), ('cm', 'a', 0.1), ('ct', 'a', 3.0), ('cm', 'b', 0.2),
        ('ct', 'b', 3.0),
    ]  # fmt: skip
    assert list(build().heads) == ['sm', 'st']
