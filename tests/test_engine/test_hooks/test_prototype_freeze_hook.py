# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from mokd_testing import AfterStep, copy_of, optim_wrapper_cfg, train

from mmmokd.engine import PrototypeFreezeHook


def prototypes_of(model):
    return {
        name
        for name, param in model.named_parameters()
        if '.student.' in name and 'last_layer' in name and param.requires_grad
    }


class States:
    """Weights, and the parameters that an optimizer has a state of, after every iteration."""

    def __init__(self):
        self.weights, self.with_state = [], []
        self.hook = AfterStep(self.keep)

    def keep(self, runner):
        names = {param: name for name, param in runner.model.named_parameters()}
        self.weights.append(copy_of(dict(runner.model.named_parameters())))
        self.with_state.append(
            {
                names[param]
                for wrapper in runner.optim_wrapper.values()
                for param, state in wrapper.optimizer.state.items()
                if state
            }
        )


def run(cfg, freeze=None):
    """A constant learning rate: a schedule begins at 0, where nothing moves anyway."""
    cfg.param_scheduler = None
    if freeze is not None:
        cfg.default_hooks.prototype_freeze = dict(type='mmmokd.PrototypeFreezeHook', **freeze)
    states = States()
    runner = train(cfg, states.hook)
    return runner, states


@pytest.mark.parametrize('counts', [1, 2])
def test_first_epoch(runner_cfg, counts):
    """Neither gain nor direction moves, nor have they momentum; all else moves."""
    cfg = runner_cfg(length=8, batch_size=2, max_epochs=2, optim=dict(accumulative_counts=counts))
    runner, states = run(cfg)
    prototypes = prototypes_of(runner.model)
    assert len(prototypes) == 7  # two gains and directions a branch, less the CNN's frozen gain
    trained = {
        name
        for name, param in runner.model.named_parameters()
        if '.student.' in name and param.requires_grad
    }
    start = states.weights[0]
    for i in range(4):
        for name in prototypes:
            assert torch.equal(states.weights[i][name], start[name]), (i, name)
        assert not states.with_state[i] & prototypes
    assert states.with_state[3] == trained - prototypes
    for name in trained:
        moved = not torch.equal(states.weights[7][name], start[name])
        assert moved, name
        if name not in prototypes:
            assert not torch.equal(states.weights[3][name], start[name]), name
    assert states.with_state[7] == trained
    # From the first step after, without what the held ones would have gathered: AdamW counts.
    optimizer = runner.optim_wrapper['vit'].optimizer
    names = {param: name for name, param in runner.model.named_parameters()}
    for param, state in optimizer.state.items():
        steps = 4 // counts if names[param] in prototypes else 8 // counts
        assert float(state['step']) == steps


def test_step_after_is_that_of_a_new_optimizer(runner_cfg, float64):
    """SGD's first step of a direction: lr (g + decay p), no momentum from before."""
    cfg = runner_cfg(length=8, batch_size=2, max_epochs=1, branches=('cnn',))
    cfg.optim_wrapper = dict(
        optim_wrapper_cfg(()),
        clip_grad=None,
        branches=dict(
            cnn=dict(optimizer=dict(type='SGD', lr=0.5, momentum=0.9, weight_decay=0.01))
        ),
    )
    weights, grads = [], []

    def keep(runner):
        params = dict(runner.model.named_parameters())
        weights.append(copy_of(params))

    cfg.default_hooks.prototype_freeze = dict(type='mmmokd.PrototypeFreezeHook', freeze_iters=2)
    cfg.param_scheduler = None

    class Gradients(AfterStep):
        def before_train(self, runner):
            optimizer = runner.optim_wrapper['cnn'].optimizer
            names = {param: name for name, param in runner.model.named_parameters()}

            def pre_hook(optimizer, args, kwargs):
                grads.append(
                    {
                        names[p]: None if p.grad is None else p.grad.clone()
                        for group in optimizer.param_groups
                        for p in group['params']
                    }
                )

            self.handle = optimizer.register_step_pre_hook(pre_hook)

    runner = train(cfg, Gradients(keep))
    for name in prototypes_of(runner.model):
        assert torch.equal(weights[1][name], weights[0][name])
        grad = grads[2][name]
        expected = weights[1][name] - 0.5 * (grad + 0.01 * weights[1][name])
        torch.testing.assert_close(weights[2][name], expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(
    ('freeze', 'held'),
    [
        (dict(freeze_epochs=0), 0),
        (dict(freeze_epochs=2), 4),
        (dict(freeze_iters=3), 3),
        (dict(freeze_iters=0), 0),
    ],
)
def test_length(runner_cfg, freeze, held):
    cfg = runner_cfg(length=4, batch_size=2, max_epochs=3, branches=('vit',))
    runner, states = run(cfg, freeze)
    prototypes = prototypes_of(runner.model)
    for i, with_state in enumerate(states.with_state):
        assert bool(with_state & prototypes) == (i >= held), i


def test_loop_without_epochs(runner_cfg):
    """An epoch is the length of the loader."""
    cfg = runner_cfg(
        length=6, batch_size=2, branches=('vit',), train_cfg=dict(by_epoch=False, max_iters=5)
    )
    runner, states = run(cfg)
    prototypes = prototypes_of(runner.model)
    assert [bool(names & prototypes) for names in states.with_state] == [False] * 3 + [True] * 2


def test_one_plain_optimizer(runner_cfg):
    """Without an optimizer a branch."""
    cfg = runner_cfg(length=4, batch_size=2, max_epochs=2, branches=('vit',))
    cfg.optim_wrapper = dict(
        type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3), accumulative_counts=1
    )
    cfg.param_scheduler = None
    counts = []

    def keep(runner):
        names = {param: name for name, param in runner.model.named_parameters()}
        counts.append(
            sum(
                'last_layer' in names[p]
                for p, s in runner.optim_wrapper.optimizer.state.items()
                if s
            )
        )

    train(cfg, AfterStep(keep))
    assert counts == [0, 0, 4, 4]


def test_optimizers_are_let_go(runner_cfg):
    runner = train(runner_cfg(length=4, max_epochs=1, branches=('vit',)))
    assert not runner.optim_wrapper['vit'].optimizer._optimizer_step_pre_hooks


@pytest.mark.parametrize('settings', [dict(freeze_epochs=-1), dict(freeze_iters=-2)])
def test_negative_length(settings):
    with pytest.raises(ValueError, match='freeze_epochs and freeze_iters must be >= 0, but got'):
        PrototypeFreezeHook(**settings)
