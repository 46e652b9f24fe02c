# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from offline_testing import Ends, unit
from torch import nn

from mmmokd.models.heads import DisCoHead
from mmmokd.structures import Views


@pytest.mark.parametrize('num_images', [4, 32])
def test_loss_and_gradient(num_images, float64):
    """Gao et al., ECCV 2022: L_dis = |z_s' - z_t'|^2 + |z_s'' - z_t''|^2 of both views, summed over the
    images of a process as ``MSELoss(reduction='sum')`` does; of as many images it is that sum."""
    torch.manual_seed(0)
    student = torch.randn(3, 4, 5, requires_grad=True)  # of two views and another
    teacher = torch.randn(2, 4, 5)
    views = Views([torch.zeros(4, 3, 4, 4)] * 2, [])
    head = DisCoHead(num_images, target_reads='pooled', loss_weight=0.3)
    head.connect(Ends(projector=5), Ends(pooled=5))
    loss = head.loss(dict(projector=student), dict(pooled=teacher), views)
    mse = nn.MSELoss(reduction='sum')
    rows = [torch.stack([unit(x) for x in each.flatten(0, 1)]) for each in (student[:2], teacher)]
    expected = 0.3 * mse(*rows) * (num_images / 4)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    grads = [torch.autograd.grad(x, student)[0] for x in (loss, expected)]
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-13)


def test_half_precision_is_computed_in_float32():
    x = torch.randn(2, 4, 8, dtype=torch.bfloat16)
    loss = DisCoHead()(x, x + 1)
    assert loss.dtype == torch.float32 and loss.isfinite()


def test_refuses():
    with pytest.raises(ValueError, match='num_images of DisCoHead .* but got 0'):
        DisCoHead(0)
    with pytest.raises(ValueError, match='DisCoHead compares .* out_channels=6'):
        DisCoHead().connect(Ends(projector=4), Ends(projector=6))
