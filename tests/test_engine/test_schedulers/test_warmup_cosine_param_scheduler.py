# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mokd_testing import optim_wrapper_cfg, train
from torch import nn

from mmmokd.engine import WarmupCosineParamScheduler


def expected_value(step, total, warmup, base, final):
    """The method's text: linear from 0 per step, then cosine."""
    if step < warmup:
        return base * step / max(warmup - 1, 1)
    progress = (step - warmup) / (total - warmup)
    return final + (base - final) * (1 + math.cos(math.pi * progress)) / 2


class Settings(Hook):
    """Keeps lr and weight decay of every group as each iteration finds them."""

    def before_train(self, runner):
        self.seen = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.seen.append(
            {
                (name, group['part'], i): (group['lr'], group['weight_decay'])
                for name, wrapper in runner.optim_wrapper.items()
                for i, group in enumerate(wrapper.param_groups)
            }
        )


@pytest.mark.parametrize('counts', [1, 2, 4])
def test_recipe_in_a_run(runner_cfg, counts):
    """Peak, end and decay of every group in each iteration; with accumulation, in each step."""
    cfg = runner_cfg(length=10, batch_size=2, max_epochs=3, optim=dict(accumulative_counts=counts))
    hook = Settings()
    train(cfg, hook)
    iters, warmup_iters = 15, 5
    assert len(hook.seen) == iters
    total, warmup = math.ceil(iters / counts), math.ceil(warmup_iters / counts)
    for i, seen in enumerate(hook.seen):
        step = i // counts
        cnn_lr = expected_value(step, total, warmup, 0.1, 0.0048)
        lr = expected_value(step, total, warmup, 3e-3, 1e-5)
        decay = expected_value(step, total, 0, 0.04, 0.4)
        expected = {
            ('cnn', 'main', 0): (cnn_lr, 1e-4),
            ('cnn', 'main', 1): (cnn_lr, 0.0),
            ('cnn', 'search_head', 2): (lr, decay),
            ('vit', 'main', 0): (lr, decay),
            ('vit', 'main', 1): (lr, 0.0),
        }
        assert seen.keys() == expected.keys()
        for key, value in expected.items():
            assert seen[key] == pytest.approx(value, rel=1e-12, abs=1e-15), (i, key)


def test_lengths_in_iterations(runner_cfg):
    """Without epochs, in a loop without them; the Runner fills in the length of the run."""
    schedule = dict(
        type='mmmokd.WarmupCosineParamScheduler', param_name='lr', final=0.01, warmup=2,
        by_epoch=False,
    )  # fmt: skip
    hook = Settings()
    cfg = runner_cfg(
        branches=('vit',),
        train_cfg=dict(by_epoch=False, max_iters=6),
        param_scheduler=dict(vit=[schedule]),
        optim_wrapper=dict(
            optim_wrapper_cfg(()),
            branches=dict(vit=dict(optimizer=dict(type='SGD', lr=0.1))),
        ),
    )
    train(cfg, hook)
    found = [seen['vit', 'main', 0][0] for seen in hook.seen]
    expected = [expected_value(i, 6, 2, 0.1, 0.01) for i in range(6)]
    assert found == pytest.approx(expected, rel=1e-12)


def wrapper(*groups, **kwargs):
    params = [dict(group, params=[nn.Parameter(torch.zeros(1))]) for group in groups]
    return OptimWrapper(torch.optim.SGD(params, lr=0.1), **kwargs)


def build(groups=(dict(part='main'),), param_name='lr', final=0.01, end=10, **kwargs):
    return WarmupCosineParamScheduler(wrapper(*groups), param_name, final, end=end, **kwargs)


def test_learning_rate_is_never_raised(monkeypatch):
    """A peak below the end, as a small batch has, stays, and the log says so once."""
    from mmmokd.engine.schedulers import warmup_cosine_param_scheduler as module

    messages = []
    monkeypatch.setattr(module, 'print_log', lambda text, **kwargs: messages.append(text))
    scheduler = build(final=0.5, warmup=3)
    values = []
    for _ in range(10):
        values.append(scheduler.get_last_value()[0])
        scheduler.step()
    assert values == pytest.approx([0, 0.05] + [0.1] * 8)
    assert len(messages) == 1 and '0.1' in messages[0] and '0.5' in messages[0]


@pytest.mark.parametrize(('epochs', 'warmup'), [(1, 0), (5, 2), (8, 4), (20, 10), (30, 10)])
def test_a_short_run_shortens_the_warm_up(epochs, warmup, monkeypatch):
    """Two epochs of five iterations, for a run of 20 epochs."""
    from mmmokd.engine.schedulers import warmup_cosine_param_scheduler as module

    messages = []
    monkeypatch.setattr(module, 'print_log', lambda text, **kwargs: messages.append(text))
    scheduler = WarmupCosineParamScheduler.build_iter_from_epoch(
        wrapper(dict()), 'lr', 0.01, epoch_length=5, warmup=2, base_length=20, end=epochs
    )
    for step in range(5 * epochs):
        expected = expected_value(step, 5 * epochs, warmup, 0.1, 0.01)
        assert scheduler.get_last_value()[0] == pytest.approx(expected, rel=1e-12)
        scheduler.step()
    assert len(messages) == (epochs < 20)
    assert all(f'of {5 * epochs} it takes {warmup}' in text for text in messages)


def test_groups_without_decay_stay_without():
    groups = [dict(weight_decay=0.04), dict(weight_decay=0.0), dict(weight_decay=0.1, part='x')]
    scheduler = build(groups, 'weight_decay', 0.4)
    for _ in range(5):
        scheduler.step()
    middle = expected_value(5, 10, 0, 0.04, 0.4)
    assert scheduler.get_last_value()[:3] == pytest.approx([middle, 0.0, 0.1], rel=1e-12)


def test_state():
    scheduler = build(warmup=2)
    for _ in range(4):
        scheduler.step()
    other = build(warmup=2)
    other.load_state_dict(scheduler.state_dict())
    for _ in range(3):
        scheduler.step()
        other.step()
        assert other.get_last_value() == scheduler.get_last_value()


@pytest.mark.parametrize('done', [1, 4, 9, 10])
@pytest.mark.parametrize('end', [6, 10, 16])
def test_state_of_a_run_of_another_length(done, end, monkeypatch):
    """As if the run had had the new length, final value and peak from the start."""
    from mmmokd.engine.schedulers import warmup_cosine_param_scheduler as module

    messages = []
    monkeypatch.setattr(module, 'print_log', lambda text, **kwargs: messages.append(text))
    first = build(warmup=3, final=0.05)
    for _ in range(done):
        first.step()
    groups = [dict(lr=0.2)]
    other = build(groups, warmup=2, end=end)
    # A Runner loads the optimizer's state first, which has the rates of the checkpoint.
    other.optimizer.load_state_dict(first.optimizer.state_dict())
    other.load_state_dict(first.state_dict())
    for step in range(done, end + 2):
        expected = expected_value(min(step, end - 1), end, 2, 0.2, 0.01)
        assert other.get_last_value() == pytest.approx([expected], rel=1e-12)
        assert other.optimizer.param_groups[0]['lr'] == other.get_last_value()[0]
        other.step()
    assert len(messages) == (end != 10)
    assert all(f'a run of 10 iterations, and this one has {end}' in text for text in messages)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(part='neck'), r"no parameter group has part='neck'; there are \['main'\]"),
        (dict(by_epoch=True), 'lr schedule steps with the optimizer: .*convert_to_iter_based'),
        (dict(begin=1), 'needs begin=0 .* got begin=1, warmup=0, end=10'),
        (dict(warmup=11), 'warmup=11, end=10'),
        (dict(end=10**9), 'the length of the run, but got'),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)


def test_epochs_need_an_epoch_based_scheduler():
    with pytest.raises(ValueError, match='convert_to_iter_based=True needs by_epoch=True'):
        WarmupCosineParamScheduler.build_iter_from_epoch(
            wrapper(dict()), 'lr', 0.01, epoch_length=5, by_epoch=False
        )


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(epoch_length=0, end=3), 'an epoch has no iteration'),
        (
            dict(epoch_length=5, warmup=10, end=3),
            'warm-up of 10 epochs is longer than the run of 3',
        ),
    ],
)
def test_epochs_that_cannot_be_scheduled(kwargs, message):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(ValueError, match=message):
        WarmupCosineParamScheduler.build_iter_from_epoch(
            optimizer, param_name='lr', final=0.01, **kwargs
        )
