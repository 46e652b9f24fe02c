# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import copy

import pytest
import torch
from torch import nn

from mmmokd.models.utils import OneDNNLinear, onednn

pytestmark = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, '_linear_pointwise'), reason='PyTorch without oneDNN'
)


@pytest.mark.parametrize('shape', [(5, 8), (2, 3, 8), (1, 1, 1, 8), (0, 8)])
@pytest.mark.parametrize('bias', [True, False])
def test_linear_layer(shape, bias, monkeypatch):
    """Against PyTorch's own layer in float64."""
    monkeypatch.setattr(onednn, 'is_faster', lambda: True)
    torch.manual_seed(0)
    exact = nn.Linear(8, 6, bias=bias).double()
    layer = copy.deepcopy(exact).float()
    layer.__class__ = OneDNNLinear
    x = torch.randn(shape, dtype=torch.float64)
    found, expected = [], []
    for each, values, out in ((layer, x.float(), found), (exact, x, expected)):
        values.requires_grad_()
        y = each(values)
        out += [y, *torch.autograd.grad(y.square().sum(), [values, *each.parameters()])]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)


def test_other_dtypes_and_autocast_are_pytorchs():
    layer = nn.Linear(8, 6)
    other = copy.deepcopy(layer)
    other.__class__ = OneDNNLinear
    x = torch.randn(4, 8)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(layer(x), other(x)) and other(x).dtype == torch.bfloat16
    assert torch.equal(layer.double()(x.double()), other.double()(x.double()))


@pytest.mark.parametrize('rows', [3, onednn.MANY_ROWS + 1])
def test_products_of_any_strides(rows, monkeypatch):
    monkeypatch.setattr(onednn, 'is_faster', lambda: True)
    torch.manual_seed(0)
    a, b = torch.randn(5, rows), torch.randn(4, 5)
    for left, right in ((a.t(), b.t()), (a.t().contiguous(), b.t()), (b[::2], a)):
        exact = left.double() @ right.double()
        found = onednn.product(left, right)
        torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)
    found = onednn.product(a.double().t(), b.double().t())
    assert torch.equal(found, a.double().t() @ b.double().t())
