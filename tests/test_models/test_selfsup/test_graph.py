# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Graphs of branches: who learns from whom, and what is built."""

import pytest
import torch
from graph_testing import SMALL, backbone, losses_of
from mokd_testing import branch_cfg, build_mokd, random_views

from mmmokd.models import Branch
from mmmokd.registry import MODELS

LINEAR = dict(type='mmpretrain.LinearClsHead')


@MODELS.register_module()
class BranchWithQueue(Branch):
    """Has an argument of its own."""

    def __init__(self, *args, queue_size=1, **kwargs):
        super().__init__(*args, **kwargs)
        self.queue_size = queue_size


def test_a_pair_is_its_two_backbones():
    model = build_mokd(dict(cnn=backbone('cnn'), vit=backbone('vit')), **SMALL)
    explicit = build_mokd(('cnn', 'vit'))
    heads = {name: branch.student.search_head for name, branch in model.branches.items()}
    for name, branch in explicit.branches.items():
        expected = branch.student.search_head.state_dict()
        found = heads[name].state_dict()
        assert list(found) == list(expected)
        assert all(found[key].shape == expected[key].shape for key in expected)
    assert losses_of(model) == losses_of(explicit)


def test_plain_dino_has_no_search_head():
    model = build_mokd(dict(vit=backbone('vit', heads=dict(st=None))), **SMALL)
    assert not [key for key in model.state_dict() if 'search_head' in key]
    assert losses_of(model, sizes=(32, 32)) == ['vit.loss_sm']


def test_branch_that_is_left_out():
    model = build_mokd(dict(cnn=None, vit=branch_cfg('vit', cross_weight=dict(cnn=1.0))))
    assert losses_of(model) == ['vit.loss_sm', 'vit.loss_st']


def test_branches_without_an_edge_need_not_agree():
    branches = dict(vit=branch_cfg('vit', cross_weight={}), cnn=branch_cfg('cnn', cross_weight={}))
    for part in ('projector', 'search_head'):
        branches['cnn'][part]['out_channels'] = 7
    assert len(losses_of(build_mokd(branches))) == 4


def test_further_term_and_its_width():
    heads = dict(st=None, mine=dict(type='mmmokd.WidthHead'))
    heads['deep'] = dict(type='mmmokd.WidthHead', reads='projector', loss_weight=0.0)
    model = build_mokd(dict(cnn=backbone('cnn', heads=heads)), **SMALL)
    found = {term: head for _, term, _, head in model.heads_by_name()}
    assert list(found) == ['sm', 'mine', 'deep']
    assert found['mine'].weight.shape == (16,) and found['deep'].weight.shape == (10,)
    losses = model(random_views(), mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    assert found['mine'].weight.grad is not None and losses['cnn.loss_deep'] == 0
    torch.testing.assert_close(total.branch_losses['cnn'], total.detach())


def test_head_that_reads_something_else_of_the_teacher():
    """A frozen teacher needs no neck, and the head knows the widths of both ends."""
    heads = dict(sm=None, st=None, cm=None, ct=None, x=dict(type='mmmokd.PooledTeacherHead'))
    branches = dict(cnn=backbone('cnn', heads=heads), vit=backbone('vit', frozen=True))
    model = build_mokd(branches, **SMALL)
    branch = model.branches['vit']
    assert branch.teacher.neck_names == ()
    assert model.branches['cnn'].heads['x']['vit'].widths.tolist() == [10, 24]
    branch.load_state_dict(branch.state_dict())
    assert losses_of(model) == ['cnn.loss_x.vit']
    with pytest.raises(ValueError, match=r'^branch cnn, heads.x: too wide: \[12, 24\]'):
        build_mokd(branches, **{**SMALL, 'neck_defaults': dict(out_channels=12)})


def test_another_class_of_branch():
    vit = backbone('vit', type='mmmokd.BranchWithQueue', queue_size=5)
    branch = build_mokd(dict(vit=vit), **SMALL).branches['vit']
    assert branch.queue_size == 5 and branch.student.neck_names == ('projector', 'search_head')
    with pytest.raises(ValueError, match='takes no queue_size=5'):
        build_mokd(dict(vit=dict(vit, type='mmmokd.Branch')), **SMALL)


@pytest.mark.parametrize(
    ('views', 'message'),
    [
        ([4, 5], r'branch cnn: views must have one of the 4 global views .* got \[4, 5\]'),
        ([0], r'learns from vit \(heads.cm\), .* same number .* cnn sees 1 and vit 4'),
        ([0, 1, 2, 3], r'heads.ct needs a local view \(from number 4\), but views are \[0, 1'),
    ],
)
def test_views_that_do_not_fit(views, message):
    branches = dict(cnn=branch_cfg('cnn', views=views), vit=branch_cfg('vit'))
    with pytest.raises(ValueError, match=message):
        build_mokd(branches, num_global_views=4)


@pytest.mark.parametrize(
    ('branches', 'settings', 'message'),
    [
        (dict(vit=None), {}, r"branches must be a non-empty dict .*, but got \['vit'\]"),
        (dict(vit=branch_cfg('vit', cross_weight=dict(net=1.0))), {}, "names 'net', but .* are none"),
        (dict(vit=backbone('vit', heads=dict(sm=None, st=None))), {}, 'it has no loss heads'),
        (
            dict(vit=branch_cfg('vit', heads=dict(st=None, ct=None)), cnn=branch_cfg('cnn')), {},
            'branch vit: another branch learns from its search_head, which no head of its own',
        ),
        (dict(vit=backbone('vit', frozen=True)), {}, 'frozen and no other branch learns from it'),
        (
            dict(vit=backbone('vit', frozen=True, heads=dict(sm={}), cross_weight=1.0)), {},
            r'heads and cross_weight would have no effect: leave that out \(heads=None, cross_',
        ),
        (
            dict(vit=backbone('vit', heads=dict(x=dict(LINEAR, reads='pooled')))),
            {}, 'heads.x: LinearClsHead is not a loss head of a branch',
        ),
        (dict(vit=backbone('vit', heads=dict(x=LINEAR))), {},
         'branch vit: heads.x needs `reads`'),
        (dict(vit=backbone('vit', heads=dict(sm=dict(type='mmmokd.Nothing')))), {},
         "heads.sm needs a type that is registered, but got 'mmmokd.Nothing'"),
        (dict(vit=backbone('vit', heads=dict(sm=dict(teacher='none')))), {}, 'learns from a teacher'),
        (dict(vit=backbone('vit', frozen='yes')), {},
         "frozen must be True or False or 'backbone', but got 'yes'"),
        (dict(vit=backbone('vit')), dict(neck_defaults=dict(out_chanels=3)), 'takes out_chanels'),
        (dict(vit=backbone('vit')), dict(global_size='big'), "number of pixels, .* got 'big'"),
    ],
)  # fmt: skip
def test_graphs_that_cannot_be(branches, settings, message):
    with pytest.raises(ValueError, match=message):
        build_mokd(branches, **{**SMALL, **settings})
