# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import copy

import pytest
import torch
from torch import nn, optim

from mmmokd.engine.optimizers.fused import FusedSGD, keep_implementation, prefer_fused

OPTIMIZERS = [
    dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.01),
    dict(type='SGD', lr=0.1, momentum=0.9, nesterov=True),
    dict(type='SGD', lr=0.1),
    dict(type='Adam', lr=0.01),
    dict(type=optim.AdamW, lr=0.01, weight_decay=0.1),
]


def make(cfg, seed=0, fused=True):
    """Two parameters, and an optimizer of them that is fused or not."""
    torch.manual_seed(seed)
    params = [nn.Parameter(torch.randn(7, 5)), nn.Parameter(torch.randn(3))]
    cfg = prefer_fused(cfg, params) if fused else dict(cfg)
    cls = cfg.pop('type')
    cls = getattr(optim, cls) if isinstance(cls, str) else cls
    optimizer = cls(params, **cfg)
    optimizer.register_load_state_dict_pre_hook(keep_implementation)
    return params, optimizer


def step(params, optimizer, number):
    """A step; the second parameter joins at the third."""
    generator = torch.Generator().manual_seed(number)
    for i, param in enumerate(params):
        param.grad = torch.randn(param.shape, generator=generator, dtype=param.dtype)
        if i == 1 and number < 2:
            param.grad = None
    optimizer.step()


def assert_same(one, other):
    (params, optimizer), (others, plain) = one, other
    for param, expected in zip(params, others, strict=True):
        torch.testing.assert_close(param, expected, rtol=1e-12, atol=1e-14)
        state, wanted = optimizer.state[param], plain.state[expected]
        assert state.keys() == wanted.keys()
        for key, value in wanted.items():  # the fused count steps in float32
            torch.testing.assert_close(state[key], value, rtol=1e-12, atol=1e-14, check_dtype=False)


@pytest.mark.parametrize('cfg', OPTIMIZERS)
def test_steps_are_those_of_the_plain_optimizer(cfg, float64):
    fused, plain = make(cfg), make(cfg, fused=False)
    assert fused[1].defaults['fused'] and not plain[1].defaults['fused']
    for number in range(4):
        step(*fused, number)
        step(*plain, number)
        assert_same(fused, plain)


@pytest.mark.parametrize('fused', [False, True])
@pytest.mark.parametrize('cfg', OPTIMIZERS)
def test_resumes_from_either(cfg, fused, float64):
    """A checkpoint of the one continues in the other, which stays what it is."""
    first, whole = make(cfg, fused=not fused), make(cfg, fused=fused)
    for number in range(2):
        step(*first, number)
        step(*whole, number)
    state = copy.deepcopy(first[1].state_dict())
    state['param_groups'][0]['lr'] = 0.05
    whole[1].param_groups[0]['lr'] = 0.05
    resumed = make(cfg, seed=1, fused=fused)
    for param, value in zip(resumed[0], first[0], strict=True):
        param.data.copy_(value)
    resumed[1].load_state_dict(state)
    assert bool(resumed[1].param_groups[0]['fused']) == fused
    for number in range(2, 4):
        step(*resumed, number)
        step(*whole, number)
    assert_same(resumed, whole)


@pytest.mark.parametrize(
    'cfg',
    [
        *(dict(type='SGD', lr=0.1, momentum=0.9, **{key: value})
          for key in ('fused', 'foreach') for value in (None, False, True)),
        dict(type='SGD', lr=0.1, momentum=0.9, dampening=0.5),
        dict(type='RMSprop', lr=0.1),
    ],
)  # fmt: skip
def test_what_the_config_says_stays(cfg):
    assert prefer_fused(cfg, [nn.Parameter(torch.ones(2))]) == cfg


def test_where_pytorch_has_none():
    cfg = dict(type='SGD', lr=0.1)
    assert prefer_fused(cfg, [nn.Parameter(torch.ones(2, device='meta'))]) == cfg
    assert prefer_fused(cfg, [nn.Parameter(torch.ones(2))])['type'] is FusedSGD


def test_a_skipped_first_step_leaves_momenta_of_zero():
    """PyTorch's own leaves what the memory held before."""
    params, optimizer = make(OPTIMIZERS[0])
    before = copy.deepcopy(params)
    scaler = torch.amp.GradScaler('cpu', init_scale=4.0)
    for factor in (torch.inf, 1.0):
        scaler.scale(factor * sum(param.sum() for param in params)).backward()
        scaler.step(optimizer)
        scaler.update()
        if factor != 1:
            assert all(torch.equal(*pair) for pair in zip(params, before, strict=True))
            assert not any(s['momentum_buffer'].any() for s in optimizer.state.values())
        optimizer.zero_grad()
    for param, old in zip(params, before, strict=True):
        torch.testing.assert_close(param, old - 0.1 * (1 + 0.01 * old))


def test_groups_that_differ_are_for_pytorch_to_refuse():
    _, optimizer = make(OPTIMIZERS[0])
    state = optimizer.state_dict()
    state['param_groups'] *= 2
    with pytest.raises(ValueError, match='different number of parameter groups'):
        optimizer.load_state_dict(state)
