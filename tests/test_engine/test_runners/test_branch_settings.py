# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import copy

import pytest
from mmengine.config import Config
from mokd_testing import runner_cfg

from mmmokd.engine.runners.branch_settings import drop_idle_settings


@pytest.fixture(scope='module')
def pair():
    return runner_cfg('unused')


def test_one_model_of_a_pair_alone(pair):
    """``model.branches.cnn=None`` is enough: optimizers and schedules follow."""
    cfg = copy.deepcopy(pair)
    assert drop_idle_settings(cfg) == []
    cfg.merge_from_dict({'model.branches.cnn': None})
    assert drop_idle_settings(cfg) == [
        'Branch cnn is left out: optim_wrapper.branches.cnn is not used.',
        'Branch cnn is left out: param_scheduler.cnn is not used.',
    ]
    assert list(cfg.optim_wrapper.branches) == list(cfg.param_scheduler) == ['vit']
    frozen = copy.deepcopy(pair)
    frozen.merge_from_dict({'model.branches.vit.frozen': True})
    assert 'Branch vit is frozen: param_scheduler.vit is not used.' in drop_idle_settings(frozen)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'optim_wrapper.branches.cn': {}}, 'optim_wrapper.branches has cn, but the model has the'),
        ({'param_scheduler.cn': []}, r"param_scheduler has cn, .* branches \['cnn', 'vit'\]"),
        ({'param_scheduler': dict(_delete_=True, vit=[])}, 'param_scheduler has no .* branch cnn'),
    ],
)
def test_settings_of_other_branches(pair, change, message):
    cfg = copy.deepcopy(pair)
    cfg.merge_from_dict(change)
    with pytest.raises(ValueError, match=message):
        drop_idle_settings(cfg)


def test_other_configs_stay_as_they_are(pair):
    common = dict(type='CosineAnnealingLR', T_max=2)
    for changes in (
        dict(model=dict(type='mmpretrain.BYOL')),
        dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1))),
        dict(optim_wrapper=None),
        dict(param_scheduler=common),
        dict(param_scheduler=None),
    ):
        cfg = Config(dict(pair.to_dict(), **changes))
        before = cfg.to_dict()
        assert drop_idle_settings(cfg) == []
        assert cfg.to_dict() == before
