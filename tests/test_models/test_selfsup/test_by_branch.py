# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Training of one branch after the other."""

from functools import partial

import pytest
import torch
from mmengine.model import BaseModel
from mokd_testing import branch_cfg, build_mokd, optim_wrapper_cfg, random_views

from mmmokd.engine.optimizers import BranchOptimWrapperConstructor
from mmmokd.models import MOKD


@pytest.mark.parametrize('counts', [1, 2])
def test_one_branch_after_the_other(counts):
    """To the bit as all at once, and a student's pass begins after the last one's step."""
    branches = dict(
        cnn=branch_cfg('cnn'),
        vit=branch_cfg('vit', backbone=dict(drop_path_rate=0.3)),
        own=branch_cfg('vit', ema=False),
        frozen=branch_cfg('cnn', frozen=True),
    )
    sides, events = [], []
    for at_once in (True, False):
        model = build_mokd(branches)
        model.load_state_dict(model.state_dict())  # as load_from does
        cfg = optim_wrapper_cfg(['cnn', 'vit', 'own'], accumulative_counts=counts)
        cfg.pop('constructor')
        optim = BranchOptimWrapperConstructor(cfg)(model.train())
        if not at_once:
            for name in ('cnn', 'vit'):
                note = partial(lambda name, *args: events.append(name), name)
                model.branches[name].student.backbone.register_forward_pre_hook(note)
                optim[name].optimizer.register_step_post_hook(partial(note, 'step'))
        step = partial(BaseModel.train_step, model) if at_once else model.train_step
        torch.manual_seed(3)
        logs = [step(dict(inputs=random_views(seed=i)), optim) for i in range(4)]
        sides.append((logs, model.state_dict()))
    (logs, weights), (others, other_weights) = sides
    assert [list(log) for log in logs] == [list(log) for log in others]
    for log, other in zip(logs, others, strict=True):
        assert all(torch.equal(log[key], other[key]) for key in log)
    assert all(torch.equal(value, other_weights[key]) for key, value in weights.items())
    # Views of two sizes: two passes.
    assert events[: 4 + 2 // counts] in (
        ['cnn', 'cnn', 'cnn', 'vit', 'vit', 'vit'],
        ['cnn', 'cnn', 'vit', 'vit', 'cnn'],
    )


def test_loss_of_a_subclass_is_what_trains():
    """One that does not know of training branch by branch."""

    class Doubled(MOKD):
        def loss(self, inputs, data_samples=None):
            return {key: 2 * loss for key, loss in super().loss(inputs, data_samples).items()}

    logs = []
    for cls in (MOKD, Doubled):
        model = build_mokd(['cnn', 'vit'])
        model.__class__ = cls
        cfg = optim_wrapper_cfg(['cnn', 'vit'])
        cfg.pop('constructor')
        optim = BranchOptimWrapperConstructor(cfg)(model.train())
        logs.append(model.train_step(dict(inputs=random_views()), optim))
    assert logs[0].keys() == logs[1].keys()
    for key, value in logs[0].items():
        torch.testing.assert_close(logs[1][key], 2 * value)
