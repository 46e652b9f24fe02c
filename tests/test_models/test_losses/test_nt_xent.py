# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from plain_dogo import plain_nt_xent

from mmmokd.models.losses import nt_xent


def views(batch=4, seed=0):
    torch.manual_seed(seed)
    return torch.randn(2, batch, 3, requires_grad=True)


@pytest.mark.parametrize(('batch', 'temperature'), [(4, 0.5), (2, 0.5), (3, 0.07)])
def test_loss_and_gradient(batch, temperature, float64):
    pair = views(batch)
    loss = nt_xent(*pair, temperature).loss
    expected = plain_nt_xent(*pair, temperature)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    found, wanted = (torch.autograd.grad(each, pair)[0] for each in (loss, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-13)


def test_parts_of_a_batch_are_the_batch(float64):
    first, second = views(6)
    parts = [
        nt_xent(first[i : i + 2], second[i : i + 2], 0.5, everything=(first, second), start=i)
        for i in (0, 2, 4)
    ]
    whole = nt_xent(first, second)
    torch.testing.assert_close(sum(part.loss for part in parts) / 3, whole.loss, rtol=1e-12, atol=0)
    assert float(sum(part.accuracy for part in parts) / 3) == pytest.approx(float(whole.accuracy))


def test_accuracy():
    turned = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert nt_xent(turned, turned).accuracy == 100
    assert nt_xent(turned, turned.flip(0)).accuracy == 0


def test_half_precision_is_widened():
    pair = views().detach().bfloat16()
    assert torch.equal(nt_xent(*pair).loss, nt_xent(*pair.float()).loss)


def test_needs_another_image():
    with pytest.raises(ValueError, match='at least 2 images in a batch .* but got 1'):
        nt_xent(torch.ones(1, 3), torch.ones(1, 3))
