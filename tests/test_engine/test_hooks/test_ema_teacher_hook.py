# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import math
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mokd_testing import (
    AfterStep,
    branch_cfg,
    build_mokd,
    copy_of,
    model_cfg,
    train,
    with_batch_norm,
)

from mmmokd.engine import EMATeacherHook


def momentum_of(step, steps, base, end=1.0):
    """A cosine from base to end over the optimizer steps."""
    return end - (end - base) * (math.cos(math.pi * step / steps) + 1) / 2


class Teachers(Hook):
    """The teachers and the logged momentum as each iteration leaves them."""

    priority = 'VERY_LOW'

    def before_train(self, runner):
        self.after = []
        self.start = copy_of(runner.model.state_dict())

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        scalars = runner.message_hub.log_scalars
        logged = (
            scalars['train/ema_momentum'].current() if 'train/ema_momentum' in scalars else None
        )
        self.after.append((copy_of(runner.model.state_dict()), logged))


def params_of(model):
    return [name for name, _ in model.named_parameters() if '.teacher.' in name]


def run(cfg):
    """States before and after the EMA hook in each iteration."""
    before = []
    after = Teachers()
    stepped = AfterStep(lambda runner: before.append(copy_of(runner.model.state_dict())))
    runner = train(cfg, after, stepped)
    return runner, before, after


@pytest.mark.parametrize(('counts', 'iters'), [(1, 4), (2, 5), (3, 6)])
def test_teachers_follow_each_optimizer_step(runner_cfg, counts, iters, float64):
    """t <- m t + (1 - m) s, with the student after its step; not after other micro-batches."""
    cfg = runner_cfg(
        length=2 * iters, batch_size=2, max_epochs=1, optim=dict(accumulative_counts=counts)
    )
    runner, before, after = run(cfg)
    names = params_of(runner.model)
    teachers = {name: after.start[name] for name in names}
    steps = math.ceil(iters / counts)
    step = 0
    for i in range(iters):
        momentum = None
        if (i + 1) % counts == 0 or i + 1 == iters:
            momentum = momentum_of(step, steps, 0.9)
            step += 1
            for name in names:
                student = before[i][name.replace('.teacher.', '.student.')]
                teachers[name] = momentum * teachers[name] + (1 - momentum) * student
        state, logged = after.after[i]
        for name in names:
            torch.testing.assert_close(state[name], teachers[name], rtol=1e-13, atol=1e-15)
        if momentum is not None:
            assert logged == pytest.approx(momentum, rel=1e-14)
    assert step == steps
    start = after.start
    moved = {
        name
        for name in names
        if not torch.allclose(teachers[name], start[name], rtol=1e-12, atol=1e-15)
    }
    # A gain that is not trained, and prototype layers in the epoch in which they are held, stay.
    assert set(names) - moved == {name for name in names if 'last_layer' in name}


def test_buffers_are_not_averaged(runner_cfg):
    """The teacher's statistics are of its own batches: those before the hook are those after."""
    cfg = runner_cfg(max_epochs=1, branches=('cnn',), model=model_cfg(dict(cnn=with_batch_norm())))
    runner, before, after = run(cfg)
    buffers = [name for name, _ in runner.model.named_buffers() if '.teacher.' in name]
    assert buffers
    for state, (later, _) in zip(before, after.after, strict=True):
        assert all(torch.equal(state[name], later[name]) for name in buffers)
    means = [name for name in buffers if name.endswith('running_mean')]
    assert all(not torch.equal(before[-1][name], after.start[name]) for name in means)


def test_teachers_are_paired_by_name():
    """A student may have more than its teacher; one network alone has nothing to move."""
    model = build_mokd(dict(cnn=branch_cfg('cnn', ema=False), vit=branch_cfg('vit')))
    vit = model.branches['vit']
    vit.student.extra = torch.nn.Linear(1, 1)
    runner = SimpleNamespace(model=model, logger=SimpleNamespace(info=print))
    hook = EMATeacherHook()
    hook.before_train(runner)
    names = [name for name, _ in vit.teacher.named_parameters()]
    students = dict(vit.student.named_parameters())
    assert list(map(id, hook._students)) == [id(students[name]) for name in names]
    vit.teacher.other = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match='branch vit: .* its student has not: other.weight, other'):
        hook.before_train(runner)


def test_no_teacher_to_move(runner_cfg):
    """SEED and the like keep the hooks of MOKD."""
    branches = dict(cnn=branch_cfg('cnn', ema=False, cross_weight={}))
    runner = train(runner_cfg(length=4, max_epochs=1, branches=branches))
    assert runner.iter == 1 and 'train/ema_momentum' not in runner.message_hub.log_scalars


def test_end_of_the_momentum(runner_cfg):
    cfg = runner_cfg(max_epochs=1, branches=('vit',))
    cfg.default_hooks.ema_teacher = dict(
        type='mmmokd.EMATeacherHook', base_momentum=0.6, end_momentum=0.8
    )
    _, _, after = run(cfg)
    assert [logged for _, logged in after.after] == pytest.approx(
        [momentum_of(step, 2, 0.6, 0.8) for step in range(2)]
    )


@pytest.mark.parametrize('name', ['base_momentum', 'end_momentum'])
@pytest.mark.parametrize('value', [0.004, 1.1])
def test_momentum_out_of_range(name, value):
    """Above all mmpretrain's convention, in which 0.004 is meant."""
    with pytest.raises(ValueError, match=f'{name} is the share of the old teacher, .* got {value}'):
        EMATeacherHook(**{name: value})
