# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import math
import warnings

import pytest
import torch
from mmengine.optim import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingMomentum,
    LinearLR,
    MultiStepLR,
    OptimWrapper,
    ReduceOnPlateauLR,
)
from torch import nn

from mmmokd.engine import WarmupCosineParamScheduler
from mmmokd.engine.schedulers.replay import has_same_settings, replay_schedules

LENGTH, EPOCHS = 5, 8  # iterations of an epoch, epochs of a run
WARMUP = 2 * LENGTH


def wrapper(lr=0.1, kind=torch.optim.SGD, **kwargs):
    return OptimWrapper(kind([nn.Parameter(torch.zeros(1))], lr=lr, **kwargs))


def warmup_and_cosine(optimizer, by_epoch=False, total=LENGTH * EPOCHS):
    """The usual recipe of fine-tuning; with ``by_epoch`` the cosine steps once an epoch."""
    begin, end = (2, EPOCHS) if by_epoch else (WARMUP, total)
    return [
        LinearLR(optimizer, start_factor=0.01, by_epoch=False, end=WARMUP),
        CosineAnnealingLR(optimizer, T_max=end - begin, begin=begin, end=end, by_epoch=by_epoch),
    ]


def closed_form(done, by_epoch):
    """Learning rate of the iteration after ``done``; mmengine's warm-up ends one step early."""
    if done < WARMUP:
        share = min(done / (WARMUP - 1), 1)
        return 0.1 * (0.01 + 0.99 * share)
    step, total = (done // LENGTH - 2, EPOCHS - 2) if by_epoch else (done - WARMUP, 30)
    return 0.1 * (1 + math.cos(math.pi * min(step, total - (not by_epoch)) / total)) / 2


@pytest.mark.parametrize('by_epoch', [False, True])
@pytest.mark.parametrize('done', [0, 3, 10, 25, 39])
def test_replay_is_the_closed_form(done, by_epoch):
    optimizer = wrapper()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        schedulers = warmup_and_cosine(optimizer, by_epoch)
        replay_schedules(schedulers, done, LENGTH)
    expected = closed_form(done, by_epoch)
    assert optimizer.param_groups[0]['lr'] == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert schedulers[0]._global_step == done
    assert schedulers[1]._global_step == (done // LENGTH if by_epoch else done)


def test_replay_of_our_own_needs_no_steps(monkeypatch):
    optimizer = wrapper()
    schedule = WarmupCosineParamScheduler(optimizer, 'lr', 0.01, warmup=10, end=40)
    monkeypatch.setattr(schedule, 'step', None)
    replay_schedules([schedule], 25, LENGTH)
    expected = 0.01 + 0.09 * (1 + math.cos(math.pi * 0.5)) / 2
    assert optimizer.param_groups[0]['lr'] == pytest.approx(expected, rel=1e-12)


def test_replay_of_our_own_beside_others():
    optimizer = wrapper(momentum=0.9)
    schedulers = [
        WarmupCosineParamScheduler(optimizer, 'lr', 0.01, warmup=10, end=40),
        CosineAnnealingMomentum(optimizer, T_max=40, end=40, by_epoch=False, verbose=True),
    ]
    replay_schedules(schedulers, 20, None)
    (group,) = optimizer.param_groups
    third = 0.01 + 0.09 * (1 + math.cos(math.pi / 3)) / 2
    assert group['lr'] == pytest.approx(third, rel=1e-12)
    assert group['momentum'] == pytest.approx(0.45, rel=1e-9)
    assert schedulers[1].verbose


def test_what_goes_by_measures_cannot_be_replayed():
    with pytest.raises(ValueError, match='ReduceOnPlateauLR depends on past metrics'):
        replay_schedules([ReduceOnPlateauLR(wrapper(), monitor='loss')], 3, LENGTH)


@pytest.mark.parametrize(
    ('build', 'same'),
    [
        (lambda: warmup_and_cosine(wrapper())[1], True),
        (lambda: warmup_and_cosine(wrapper(lr=0.2))[1], False),
        (lambda: warmup_and_cosine(wrapper(), total=50)[1], False),
        (lambda: warmup_and_cosine(wrapper(), by_epoch=True)[1], False),
        (lambda: ConstantLR(wrapper(), by_epoch=False), False),
        (lambda: MultiStepLR(wrapper(), milestones=[3], by_epoch=False), False),
    ],
)
def test_settings(build, same):
    saved = warmup_and_cosine(wrapper())[1]
    for _ in range(3):
        saved.step()
    assert has_same_settings(build(), saved.state_dict()) is same


def test_settings_of_what_goes_by_measures():
    saved = ReduceOnPlateauLR(wrapper(), monitor='loss', patience=3)
    saved.step(dict(loss=1.0))
    assert has_same_settings(ReduceOnPlateauLR(wrapper(), monitor='loss', patience=3), vars(saved))
    assert not has_same_settings(ReduceOnPlateauLR(wrapper(), monitor='x', patience=3), vars(saved))
