# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from mmmokd.engine import BFloat16OptimWrapper, choose_precision
from mmmokd.engine.optimizers import precision


@pytest.mark.parametrize(
    ('device', 'has_bfloat16', 'asked', 'expected'),
    [
        *(('cuda', True, *pair) for pair in (
            ('auto', 'bfloat16'), ('bfloat16', 'bfloat16'), ('float16', 'float16'),
            (None, 'float16'), (torch.bfloat16, 'bfloat16'))),
        *(('cuda', False, *pair) for pair in (
            ('auto', 'float16'), ('bfloat16', 'bfloat16'), ('float16', 'float16'))),
        *(('cpu', True, *pair) for pair in (
            ('auto', 'bfloat16'), ('bfloat16', 'bfloat16'), ('float16', 'float32'),
            (None, 'float32'))),
        *(('cpu', False, *pair) for pair in (
            ('auto', 'float32'), ('bfloat16', 'float32'), ('float16', 'float32'))),
        ('npu', False, 'auto', 'float16'),
        ('mps', False, 'auto', 'float32'),
    ],
)  # fmt: skip
def test_choice(monkeypatch, device, has_bfloat16, asked, expected):
    monkeypatch.setattr(precision, '_has_bfloat16', lambda device: has_bfloat16)
    cfg = dict(type='AmpOptimWrapper', accumulative_counts=2, loss_scale='dynamic', dtype=asked)
    chosen, notice = choose_precision(cfg, device)
    wrapper = dict(
        bfloat16=dict(type='mmmokd.BFloat16OptimWrapper'),
        float16=dict(type='AmpOptimWrapper', loss_scale='dynamic', dtype='float16'),
        float32=dict(type='OptimWrapper'),
    )[expected]
    assert chosen == dict(wrapper, accumulative_counts=2)
    if expected != 'float32':
        assert notice is None
    elif has_bfloat16:
        assert 'float16 takes a GPU; this CPU has bfloat16: set optim_wrapper.dtype=' in notice
    else:
        assert f'This device ({device}) does not compute in bfloat16' in notice


def test_other_wrappers_and_types():
    cfg = dict(type='OptimWrapper', dtype='float16')
    assert choose_precision(cfg) == (cfg, None)
    with pytest.raises(ValueError, match="must be one of auto, bfloat16, float16, .* 'float8'"):
        choose_precision(dict(type='AmpOptimWrapper', dtype='float8'))


def test_bfloat16_without_a_scaler():
    """The model computes in bfloat16; loss, gradient and weight are in float32."""
    model = nn.Linear(4, 4)
    wrapper = BFloat16OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    with wrapper.optim_context(model):
        output = model(torch.ones(2, 4))
    assert output.dtype == torch.bfloat16
    before = model.weight.detach().clone()
    loss = output.float().square().mean()
    (grad,) = torch.autograd.grad(loss, model.weight, retain_graph=True)
    wrapper.update_params(loss)
    torch.testing.assert_close(model.weight, before - 0.1 * grad)
    assert wrapper.state_dict().keys() == {'state', 'param_groups'}
