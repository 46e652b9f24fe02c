# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest

from mmmokd.models import MOKD, BranchHead
from mmmokd.models.branches.terms import (
    check_trained,
    head_argument,
    outputs_read,
    reads_trained,
    resolve_heads,
    resolve_necks,
    resolve_peers,
    with_sources,
)
from mmmokd.registry import MODELS

DISTILL = dict(type='mmmokd.DistillationHead')


@MODELS.register_module()
class SelfMadeHead(BranchHead):
    """Reads what it reads and learns from nobody; takes no ``teacher``."""

    teacher = 'none'

    def __init__(self, reads='pooled', loss_weight=1.0):
        super().__init__(reads, 'none', loss_weight)

    def loss(self, student, teacher, views):
        return student[self.reads].mean()


def test_table_is_updated_by_name():
    heads = dict(
        ct=None, sm=dict(student_temp=0.2), cm=dict(DISTILL, _delete_=True, reads='pooled'),
        mine=dict(type='mmmokd.SelfMadeHead'), left_out=None,
    )  # fmt: skip
    found = resolve_heads(MOKD.terms, heads, peers=True)
    assert found == dict(
        sm=dict(MOKD.terms['sm'], student_temp=0.2),
        st=MOKD.terms['st'],
        cm=dict(DISTILL, reads='pooled'),
        mine=dict(type='mmmokd.SelfMadeHead'),
    )
    assert list(found) == ['sm', 'st', 'cm', 'mine']
    assert resolve_heads(MOKD.terms, None, peers=True) == MOKD.terms
    assert list(resolve_heads(MOKD.terms, None, peers=False)) == ['sm', 'st']


def test_another_class_keeps_what_it_takes():
    heads = dict(sm=dict(type='mmmokd.SelfMadeHead'))
    assert resolve_heads(MOKD.terms, heads, peers=False)['sm'] == dict(
        type='mmmokd.SelfMadeHead', reads='projector'
    )
    assert resolve_heads(MOKD.terms, dict(st=DISTILL), peers=False)['st'] == MOKD.terms['st']


@pytest.mark.parametrize(
    ('heads', 'message'),
    [
        (
            dict(tm=dict(student_temp=0.2)),
            r"unknown loss heads \['tm'\]; a branch has sm, st, cm, ct",
        ),
        (dict(sm=0.1), 'heads.sm must be a dict of settings or None, but got 0.1'),
        (
            dict(x=dict(DISTILL, teacher='peers')),
            'heads.x learns from peers .* but the branch has none',
        ),
    ],
)
def test_heads_that_cannot_be(heads, message):
    with pytest.raises(ValueError, match=message):
        resolve_heads(MOKD.terms, heads, peers=False)


@pytest.mark.parametrize(
    ('cfg', 'key', 'value'),
    [
        (dict(DISTILL, teacher='peers'), 'teacher', 'peers'),
        (DISTILL, 'teacher', 'own'),
        (dict(type='mmmokd.SearchDistillationHead'), 'teacher', 'peers'),
        (dict(type='mmmokd.SearchDistillationHead'), 'reads', 'search_head'),
        (dict(type='mmmokd.SelfMadeHead'), 'teacher', 'none'),
        (dict(type='mmmokd.SelfMadeHead'), 'nothing', None),
    ],
)
def test_argument_before_the_head_is_built(cfg, key, value):
    assert head_argument(cfg, key) == value


BRANCHES = dict(a={}, b={}, c={}, d=None)


@pytest.mark.parametrize(
    ('weight', 'peers'),
    [
        (0.1, dict(b=0.1, c=0.1)),
        (dict(c=0.5, b=0), dict(b=0, c=0.5)),
        (dict(c=None, d=1.0), {}),  # an edge, and a branch, that are left out
        ({}, {}),
    ],
)
def test_peers(weight, peers):
    found = resolve_peers('a', weight, BRANCHES)
    assert found == peers and list(found) == list(peers)


@pytest.mark.parametrize(
    ('weight', 'message'),
    [
        (dict(e=1.0), "cross_weight names 'e', but the other branches are b, c"),
        (dict(a=1.0), 'cross_weight names the branch a itself: .* loss_weight'),
        (dict(b=-1.0), r'cross_weight.b of a branch must be a number >= 0, but got -1.0'),
        ('much', "cross_weight of a branch .* or a dict of numbers by peer, but got 'much'"),
        (-1, 'cross_weight of a branch must be a number >= 0, but got -1'),
    ],
)
def test_peers_that_cannot_be(weight, message):
    with pytest.raises(ValueError, match=message):
        resolve_peers('a', weight, BRANCHES)


def test_necks():
    """Explicit values win; a default is built where it is read, and takes what it has a place for."""
    defaults = dict(out_channels=7, embed_dims=12)
    given = dict(search_head=dict(out_channels=5), more=dict(type='mmpretrain.NonLinearNeck'))
    found = resolve_necks(
        MOKD.necks, defaults, given, ['more', 'pooled', 'projector', 'search_head']
    )
    assert found == dict(
        projector=dict(type='mmmokd.DINOProjector', out_channels=7),
        search_head=dict(type='mmmokd.TransformerSearchHead', out_channels=5, embed_dims=12),
        more=dict(type='mmpretrain.NonLinearNeck'),
    )
    assert list(found) == ['projector', 'search_head', 'more']
    assert resolve_necks(MOKD.necks, defaults, dict(search_head=None), ['tokens']) == {}


@pytest.mark.parametrize(
    ('given', 'read', 'message'),
    [
        (dict(projector={}), [], r'no head reads projector: leave the neck out \(projector=None\)'),
        (
            dict(projector=None),
            ['projector'],
            "a head reads 'projector', but the branch has no neck",
        ),
        ({}, ['moco'], "a head reads 'moco', but the branch has no neck of that name: .* pooled"),
        (dict(moco=dict(in_channels=3)), ['moco'], 'moco must be a dict with a type, got'),
        (dict(search_head=3), ['search_head'], 'search_head must be a dict with a type, got 3'),
    ],
)
def test_necks_that_cannot_be(given, read, message):
    with pytest.raises(ValueError, match=message):
        resolve_necks(MOKD.necks, {}, given, read)


def test_what_is_read_of_each_branch():
    table = MOKD.terms
    heads = dict(
        a=dict(sm=table['sm'], ct=table['ct']), b=dict(st=table['st'], cm=table['cm']), c={}
    )
    peers = dict(a=dict(b=1.0), b=dict(a=1.0, c=1.0), c={})
    assert outputs_read(peers, heads) == dict(
        a={'projector', 'search_head'}, b={'search_head', 'projector'}, c={'projector'}
    )
    check_trained({'projector', 'search_head'}, {'projector', 'pooled'}, frozen=False)
    with pytest.raises(ValueError, match='learns from its moco, which no head of its own trains'):
        check_trained({'projector'}, {'moco'}, frozen=False)


def test_what_is_read_of_targets_and_by_necks():
    head = dict(type='mmmokd.ViewPairHead', reads='predictor', target_reads='projector')
    heads = dict(a=dict(own=head), b=dict(own=head, mutual=dict(head, teacher='peers')))
    read = outputs_read(dict(a={}, b=dict(a=1.0)), dict(heads, a=dict(own=dict(head, reads='x'))))
    assert read == dict(a={'x', 'projector'}, b={'predictor', 'projector'})
    table = dict(projector={}, predictor=dict(reads='projector'))
    given = dict(deep=dict(reads='predictor'), predictor=dict(out_channels=3))
    assert with_sources(table, given, ['deep']) == {'deep', 'predictor', 'projector'}
    assert with_sources(table, {}, ['pooled', 'projector']) == {'pooled', 'projector'}


def test_what_trains_a_neck_that_others_read():
    """Another framework in place of L_sm: L_cm trains the projector, unless it has no weight."""
    moco = dict(type='mmmokd.ViewPairHead', reads='moco')
    heads, read = dict(sm=moco, cm=MOKD.terms['cm']), {'moco', 'projector'}

    def check(heads, peers):
        check_trained(reads_trained(heads, peers), read, frozen=False)

    check(heads, dict(a=0.0, b=0.1))
    message = 'learns from its projector, which no head of its own trains'
    with pytest.raises(ValueError, match=message):
        check(dict(sm=moco), {})
    with pytest.raises(ValueError, match=message):
        check(heads, dict(a=0.0))
    check(dict(heads, cm=dict(heads['cm'], loss_weight=0.5)), dict(a=0.0))
    with pytest.raises(ValueError, match='no loss heads with a weight, so nothing would train it'):
        check(dict(sm=dict(MOKD.terms['sm'], loss_weight=0)), {})
