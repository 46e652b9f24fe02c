# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import math

import plain_mokd
import pytest
import torch

from mmmokd.models.necks import DINOProjector


def randomized(module):
    torch.manual_seed(0)
    for param in module.parameters():
        torch.nn.init.normal_(param, std=0.3)
    return module


def test_formula_and_gradient(float64):
    projector = randomized(DINOProjector(7, 9, hid_channels=8, bottleneck_channels=5))
    x = torch.randn(3, 7)
    found = projector(x)
    expected = plain_mokd.projector(x, dict(projector.named_parameters()))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    target = torch.randn(3, 9)
    params = list(projector.parameters())
    grads = torch.autograd.grad((found * target).sum(), params)
    for grad, other in zip(
        grads, torch.autograd.grad((expected * target).sum(), params), strict=True
    ):
        torch.testing.assert_close(grad, other, rtol=1e-10, atol=1e-13)


def test_formula_with_batch_norm(float64):
    """Statistics of the batch, between a hidden layer and its GELU; none after the last linear."""
    options = dict(hid_channels=8, bottleneck_channels=5, norm_cfg=dict(type='BN1d'))
    projector = randomized(DINOProjector(7, 9, **options))
    inputs = torch.randn(6, 7)
    x, weights = inputs, dict(projector.named_parameters())
    for linear, norm in ((0, 1), (3, 4)):
        x = x @ weights[f'mlp.{linear}.weight'].T + weights[f'mlp.{linear}.bias']
        x = (x - x.mean(dim=0)) / (x.var(dim=0, unbiased=False) + 1e-5).sqrt()
        x = x * weights[f'mlp.{norm}.weight'] + weights[f'mlp.{norm}.bias']
        x = x * (1 + torch.erf(x / math.sqrt(2))) / 2
    x = x @ weights['mlp.6.weight'].T + weights['mlp.6.bias']
    x = x / x.norm(dim=1, keepdim=True)
    prefix = 'last_layer.parametrizations.weight.original'
    gain, direction = weights[f'{prefix}0'], weights[f'{prefix}1']
    expected = x @ (gain * direction / direction.norm(dim=1, keepdim=True)).T
    torch.testing.assert_close(projector(inputs), expected, rtol=1e-12, atol=1e-13)


def test_batch_norm_takes_away_what_all_features_share():
    torch.manual_seed(0)
    features = torch.rand(32, 16)
    options = dict(hid_channels=8, bottleneck_channels=4)
    for norm_cfg, shared in ((dict(type='BN1d'), True), (None, False)):
        torch.manual_seed(1)
        projector = DINOProjector(16, 9, **options, norm_cfg=norm_cfg)
        same = torch.allclose(projector(features), projector(features + 10), atol=1e-3)
        assert same == shared


@pytest.mark.parametrize(
    ('num_layers', 'widths'),
    [(1, [(7, 5)]), (2, [(7, 8), (8, 5)]), (4, [(7, 8), (8, 8), (8, 8), (8, 5)])],
)
def test_number_of_layers(num_layers, widths):
    projector = DINOProjector(7, 9, hid_channels=8, bottleneck_channels=5, num_layers=num_layers)
    linears = [layer for layer in projector.mlp if isinstance(layer, torch.nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linears] == widths
    assert isinstance(projector.mlp[-1], torch.nn.Linear)
    assert projector(torch.rand(2, 7)).shape == (2, 9)


def test_widths_by_default():
    projector = DINOProjector(512, 1024)
    shapes = {key: tuple(param.shape) for key, param in projector.named_parameters()}
    assert shapes == {
        'mlp.0.weight': (2048, 512),
        'mlp.0.bias': (2048,),
        'mlp.2.weight': (2048, 2048),
        'mlp.2.bias': (2048,),
        'mlp.4.weight': (256, 2048),
        'mlp.4.bias': (256,),
        'last_layer.parametrizations.weight.original0': (1024, 1),
        'last_layer.parametrizations.weight.original1': (1024, 256),
    }


@pytest.mark.parametrize('train_gain', [True, False])
def test_initial_weights(train_gain):
    torch.manual_seed(0)
    projector = DINOProjector(256, 512, hid_channels=256, train_gain=train_gain)
    projector.init_weights()
    for layer in projector.mlp[::2]:
        assert float(layer.weight.std()) == pytest.approx(0.02, rel=0.02)
        assert float(layer.weight.mean()) == pytest.approx(0, abs=5e-4)
        assert not layer.bias.any()
    weight = projector.last_layer.parametrizations.weight
    assert torch.equal(weight.original0, torch.ones(512, 1))
    assert weight.original0.requires_grad == train_gain
    # PyTorch's default of a linear layer: uniform within 1 / sqrt(256).
    assert float(weight.original1.abs().max()) == pytest.approx(1 / 16, rel=1e-3)
    assert float(weight.original1.std()) == pytest.approx(1 / 16 / math.sqrt(3), rel=0.02)
    assert weight.original1.requires_grad
    logits = projector(torch.randn(64, 256))
    assert float(logits.abs().max()) <= 1  # cosines


def test_weights_are_initialized_once():
    projector = DINOProjector(4, 5, hid_channels=4, bottleneck_channels=4)
    projector.init_weights()
    before = {key: value.clone() for key, value in projector.state_dict().items()}
    projector.init_weights()
    assert all(torch.equal(value, before[key]) for key, value in projector.state_dict().items())


def test_without_a_layer():
    with pytest.raises(
        ValueError, match='num_layers of DINOProjector must be .* at least 1, but got 0'
    ):
        DINOProjector(4, 5, num_layers=0)
