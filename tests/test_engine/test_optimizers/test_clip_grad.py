# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from mmengine.logging import MessageHub
from torch import nn

from mmmokd.engine.optimizers import clip_grad
from mmmokd.engine.optimizers.clip_grad import LoggedClip, clip_grad_norm_per_parameter_


def params_with_grads(grads):
    params = []
    for grad in grads:
        param = torch.zeros_like(grad, requires_grad=True)
        param.grad = grad.clone()
        params.append(param)
    return params


def test_formula(asynchronous, float64):
    """g <- g min(1, 3 / (norm + 1e-6)), each by its own norm."""
    torch.manual_seed(0)
    shapes = [(4, 5), (7,), (1, 1), (3, 2, 2, 2), ()]
    grads = [scale * torch.randn(s) for scale, s in zip([10, 0.1, 5, 1, 40], shapes, strict=True)]
    params = params_with_grads(grads)
    total = clip_grad_norm_per_parameter_(params, 3.0)
    norms = [math.sqrt(sum(x**2 for x in grad.flatten().tolist())) for grad in grads]
    assert any(norm > 3 for norm in norms) and any(norm < 3 for norm in norms)
    for param, grad, norm in zip(params, grads, norms, strict=True):
        expected = grad * min(1.0, 3.0 / (norm + 1e-6))
        torch.testing.assert_close(param.grad, expected, rtol=1e-14, atol=0)
        if norm < 2.9:
            assert torch.equal(param.grad, grad)
    assert float(total) == pytest.approx(math.sqrt(sum(norm**2 for norm in norms)), rel=1e-14)


@pytest.fixture(params=[False, True])
def asynchronous(request, monkeypatch):
    """As on a GPU, where norms are not read, whatever is small there."""
    if request.param:
        monkeypatch.setattr(clip_grad, 'is_asynchronous', lambda tensor: True)
        monkeypatch.setattr(clip_grad, 'SMALL', 100)


def test_gradients_of_any_layout(asynchronous, float64):
    torch.manual_seed(0)
    conv = torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    grads = [conv, torch.randn(20, 10), torch.randn(6, 4).t(), torch.randn(5), torch.randn(())]
    params = params_with_grads(grads)
    strides = [param.grad.stride() for param in params]
    clip_grad_norm_per_parameter_(params, 0.9)
    for param, grad in zip(params, grads, strict=True):
        expected = grad * min(1.0, 0.9 / (float(grad.norm()) + 1e-6))
        torch.testing.assert_close(param.grad, expected, rtol=1e-14, atol=0)
    assert strides == [param.grad.stride() for param in params]


def test_the_norm_is_logged_and_not_returned():
    hub = MessageHub('clip')
    clip = LoggedClip(clip_grad_norm_per_parameter_, hub, 'train/grad_norm')
    params = params_with_grads([torch.tensor([3.0, 4.0]), torch.tensor(12.0)])
    assert clip(params, max_norm=1.0) is None
    assert hub.get_scalar('train/grad_norm').current() == pytest.approx(13.0)
    LoggedClip(nn.utils.clip_grad_value_, hub, 'train/grad_value')(params, clip_value=0.1)
    assert 'train/grad_value' not in hub.log_scalars
    assert params[1].grad == pytest.approx(0.1)


def test_gradients_of_zero_and_beyond(asynchronous):
    params = params_with_grads([torch.zeros(3), torch.tensor([math.inf, 1.0]), torch.ones(2)])
    total = clip_grad_norm_per_parameter_(params, 1.0)
    assert torch.equal(params[0].grad, torch.zeros(3))
    torch.testing.assert_close(
        params[2].grad, torch.full((2,), 1 / math.sqrt(2)), rtol=1e-5, atol=0
    )
    assert math.isinf(total)
