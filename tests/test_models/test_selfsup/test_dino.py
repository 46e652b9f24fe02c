# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""DINO is MOKD with its other terms left out, to the bit."""

import pytest
import torch
from mokd_testing import branch_cfg as full_branch_cfg
from mokd_testing import build_mokd, optim_wrapper_cfg, random_views, with_batch_norm

from mmmokd.engine.optimizers import BranchOptimWrapperConstructor
from mmmokd.models import DINO
from mmmokd.utils.errors import ConfigError


def branch_cfg(cfg, **kwargs):
    return {**{key: value for key, value in cfg.items() if key != 'search_head'}, **kwargs}


def branches(**kwargs):
    vit = full_branch_cfg('vit', backbone=dict(drop_path_rate=0.3))
    return dict(cnn=branch_cfg(with_batch_norm(), **kwargs), vit=branch_cfg(vit, **kwargs))


def test_steps_are_those_of_mokd_without_its_other_terms():
    """Of two branches that learn nothing from each other, trained one after the other."""
    sides = []
    for kind, kwargs in (
        ('DINO', {}),
        ('MOKD', dict(cross_weight={}, heads=dict(st=None))),
    ):
        model = build_mokd(branches(**kwargs), type=f'mmmokd.{kind}').train()
        cfg = optim_wrapper_cfg(['cnn', 'vit'])
        cfg.pop('constructor')
        for branch in cfg['branches'].values():
            branch.pop('parts', None)
        optim = BranchOptimWrapperConstructor(cfg)(model)
        assert model.trains_by_branch(optim)
        torch.manual_seed(3)
        logs = [model.train_step(dict(inputs=random_views(seed=i)), optim) for i in range(2)]
        sides.append((model.state_dict(), logs))
    (weights, logs), (others, other_logs) = sides
    assert {*logs[0]} == {'loss', 'cnn.loss_sm', 'vit.loss_sm'} == {*other_logs[0]}
    for log, other in zip(logs, other_logs, strict=True):
        assert all(torch.equal(value, other[key]) for key, value in log.items())
    assert list(weights) == list(others)
    assert all(torch.equal(value, others[key]) for key, value in weights.items())


def test_a_backbone_is_enough():
    cfg = {k: dict(backbone=cfg['backbone']) for k, cfg in branches().items()}
    model = build_mokd(cfg, type='mmmokd.DINO', global_size=32, neck_defaults=dict(out_channels=9))
    assert isinstance(model, DINO)
    assert {name for b in model.branches.values() for name in b.student.neck_names} == {'projector'}
    assert list(model(random_views(sizes=(32, 32)), mode='loss')) == ['cnn.loss_sm', 'vit.loss_sm']


def test_a_weight_that_no_head_reads_is_refused():
    with pytest.raises(ConfigError, match=r'vit.*cross_weight=0\.5 would have no effect'):
        build_mokd(
            dict(branches(), vit=branch_cfg(branches()['vit'], cross_weight=0.5)),
            type='mmmokd.DINO',
        )
    heads = dict(cm=DINO.terms['sm'] | dict(teacher='peers'))
    model = build_mokd(branches(cross_weight=0.5, heads=heads), type='mmmokd.DINO')
    assert model.branches['vit'].heads['cm']['cnn'].loss_weight == 0.5
