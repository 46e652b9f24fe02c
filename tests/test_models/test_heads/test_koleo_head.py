# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch

from mmmokd.models.heads import KoLeoHead
from mmmokd.structures import Views


def plain_koleo(features, eps=1e-8):
    """-1/n sum_i log(min_j |x_i - x_j + eps| + eps) of one view, number by number."""
    rows = [row / row.square().sum().sqrt() for row in features]
    logs = [
        (min((x - y + eps).square().sum().sqrt() for j, y in enumerate(rows) if j != i) + eps).log()
        for i, x in enumerate(rows)
    ]
    return -sum(logs) / len(logs)


@pytest.mark.parametrize(('batch', 'eps'), [(2, 1e-8), (5, 1e-8), (4, 1e-2)])
def test_loss_and_gradient(batch, eps, float64):
    """Per view: a neighbor in another view, of the same image say, would be the nearest."""
    torch.manual_seed(0)
    features = torch.randn(3, batch, 6, requires_grad=True)
    views = Views([torch.zeros(batch, 3, 8, 8)] * 2, [torch.zeros(batch, 3, 4, 4)])
    head = KoLeoHead('moco', eps=eps, loss_weight=0.3)
    loss = head.loss(dict(moco=features), None, views)
    expected = 0.3 * sum(plain_koleo(view, eps) for view in features[:2]) / 2
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    (grad,) = torch.autograd.grad(loss, features)
    (expected_grad,) = torch.autograd.grad(expected, features)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-10, atol=1e-13)


def test_far_features_have_the_smaller_loss():
    ring = torch.eye(4)[None]  # at distances of sqrt(2)
    assert float(KoLeoHead(loss_weight=1.0)(ring)) == pytest.approx(-math.log(2) / 2, rel=1e-6)
    close = ring + 5
    assert KoLeoHead()(close) > KoLeoHead()(ring)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_equal_features_stay_finite(dtype):
    features = torch.ones(1, 3, 4, dtype=dtype, requires_grad=True)
    loss = KoLeoHead()(features)
    loss.backward()
    assert loss.isfinite() and loss.dtype == torch.float32 and features.grad.isfinite().all()


def test_needs_a_neighbor():
    with pytest.raises(ValueError, match='at least 2 images per process.* but got 1'):
        KoLeoHead()(torch.ones(2, 1, 4))
    with pytest.raises(ValueError, match='eps of KoLeoHead'):
        KoLeoHead(eps=0)
