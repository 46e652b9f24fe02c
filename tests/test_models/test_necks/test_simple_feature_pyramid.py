# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmmokd.registry import MODELS


def build(**kwargs):
    return MODELS.build(dict(type='mmmokd.SimpleFeaturePyramid', **kwargs))


def layer_norm(x, norm):
    """Over the channels of each place."""
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).square().mean(1, keepdim=True)
    x = (x - mean) / (variance + 1e-6).sqrt()
    return x * norm.weight[:, None, None] + norm.bias[:, None, None]


def deconvolution(x, layer):
    """Of stride 2 and width 2: each place becomes 2 x 2."""
    out = torch.einsum('bchw,cdij->bdhiwj', x, layer.weight)
    return out.reshape(len(x), -1, 2 * x.shape[2], 2 * x.shape[3]) + layer.bias[:, None, None]


def smoothed(x, convs):
    for conv, padding in zip(convs, (0, 1), strict=True):
        assert conv.conv.bias is None
        x = layer_norm(F.conv2d(x, conv.conv.weight, padding=padding), conv.norm)
    return x


def test_levels_are_those_of_the_paper(float64):
    torch.manual_seed(0)
    neck = build(in_channels=8, out_channels=6)
    for param in neck.parameters():
        nn.init.normal_(param)
    x = torch.randn(2, 8, 4, 6)
    outs = neck((torch.zeros(1), x))

    (first, norm, _, second), half, _, _ = neck.rescales
    quarter = deconvolution(F.gelu(layer_norm(deconvolution(x, first), norm)), second)
    pooled = x.reshape(2, 8, 2, 2, 3, 2).amax((3, 5))
    levels = (quarter, deconvolution(x, half), x, pooled)
    expected = [smoothed(*pair) for pair in zip(levels, neck.convs, strict=True)]
    expected.append(expected[-1][..., ::2, ::2])
    assert [tuple(out.shape[1:]) for out in outs] == [
        (6, 16, 24),
        (6, 8, 12),
        (6, 4, 6),
        (6, 2, 3),
        (6, 1, 2),
    ]
    for out, true in zip(outs, expected, strict=True):
        torch.testing.assert_close(out, true, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('num_outs', [4, 6])
def test_number_of_levels(num_outs):
    sizes = [
        out.shape[-1] for out in build(in_channels=4, num_outs=num_outs)([torch.rand(1, 4, 8, 8)])
    ]
    assert sizes == [32, 16, 8, 4, 2, 1][:num_outs]


def test_every_parameter_is_trained():
    neck = build(in_channels=8, out_channels=4)
    neck.init_weights()
    sum(out.sum() * n for n, out in enumerate(neck((torch.randn(1, 8, 4, 4),)), 1)).backward()
    assert all(param.grad is not None for param in neck.parameters())


def test_norm_layers():
    assert isinstance(build(in_channels=8).convs[0][0].norm, nn.LayerNorm)
    neck = build(in_channels=8, norm_cfg=dict(type='BN'))
    assert isinstance(neck.convs[0][1].norm, nn.BatchNorm2d)


def test_bad_arguments():
    with pytest.raises(ValueError, match='in_channels must be a multiple of 4, but got 6'):
        build(in_channels=6)
    with pytest.raises(ValueError, match='num_outs must be at least 4, but got 3'):
        build(in_channels=8, num_outs=3)
