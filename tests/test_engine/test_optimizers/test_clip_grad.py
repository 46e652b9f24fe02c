# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch

from mmmokd.engine.optimizers.clip_grad import clip_grad_norm_per_parameter_


def params_with_grads(grads):
    params = []
    for grad in grads:
        param = torch.zeros_like(grad, requires_grad=True)
        param.grad = grad.clone()
        params.append(param)
    return params


def test_formula(float64):
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


def test_gradients_of_zero_and_beyond():
    params = params_with_grads([torch.zeros(3), torch.tensor([math.inf, 1.0]), torch.ones(2)])
    total = clip_grad_norm_per_parameter_(params, 1.0)
    assert torch.equal(params[0].grad, torch.zeros(3))
    torch.testing.assert_close(
        params[2].grad, torch.full((2,), 1 / math.sqrt(2)), rtol=1e-5, atol=0
    )
    assert math.isinf(total)
