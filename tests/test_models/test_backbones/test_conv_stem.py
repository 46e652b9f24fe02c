# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import DefaultScope
from torch import nn

from mmmokd.models.backbones import ConvStem
from mmmokd.registry import MODELS


def plain_stem(x, state, num_layers):
    """3x3 convolutions of stride 2 with batch norm of the batch and ReLU, then a 1x1."""
    for i in range(num_layers):
        x = F.conv2d(x, state[f'layers.{3 * i}.weight'], stride=2, padding=1)
        mean = x.mean(dim=(0, 2, 3), keepdim=True)
        var = x.var(dim=(0, 2, 3), keepdim=True, unbiased=False)
        weight, bias = (
            state[f'layers.{3 * i + 1}.{name}'][:, None, None] for name in ('weight', 'bias')
        )
        x = ((x - mean) / (var + 1e-5).sqrt() * weight + bias).clamp(min=0)
    last = f'layers.{3 * num_layers}'
    return (
        torch.einsum('oc,bchw->bohw', state[f'{last}.weight'][:, :, 0, 0], x)
        + (state[f'{last}.bias'][:, None, None])
    )


@pytest.mark.parametrize('stride, num_layers', [(2, 1), (8, 3), (16, 4)])
def test_formula(stride, num_layers, float64):
    torch.manual_seed(0)
    stem = ConvStem(3, 16, kernel_size=stride, stride=(stride, stride))
    for param in stem.parameters():
        nn.init.normal_(param, std=0.5)
    x = torch.randn(3, 3, 2 * stride, 3 * stride)
    found = stem(x)
    assert found.shape == (3, 16, 2, 3)
    torch.testing.assert_close(found, plain_stem(x, stem.state_dict(), num_layers))


def test_widths_double():
    convs = [m for m in ConvStem(3, 96, 8, 8, bias=False).modules() if isinstance(m, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels) for c in convs] == [
        (3, 24),
        (24, 48),
        (48, 96),
        (96, 96),
    ]
    assert all(conv.bias is None for conv in convs)


@pytest.mark.parametrize('kind', ['mmmokd.VisionTransformer', 'VisionTransformer'])
def test_in_a_vit(kind):
    """Sides that are not a multiple of the stride are padded by mmpretrain's patch embedding."""
    cfg = dict(
        type=kind, img_size=28, patch_size=8, patch_cfg=dict(conv_type='mmmokd.ConvStem'),
        arch=dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=32),
        with_cls_token=False, out_type='featmap',
    )  # fmt: skip
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg)
    assert isinstance(model.patch_embed.projection, ConvStem)
    for side, grid in ((28, 4), (21, 3)):
        assert model(torch.rand(2, 3, side, side))[0].shape == (2, 16, grid, grid)


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(kernel_size=7, stride=7), r'2, 4, 8, 16 or 32 pixels.*stride=\(7, 7\)'),
        (dict(kernel_size=8, stride=4), r'do not overlap, but got kernel_size=\(8, 8\)'),
        (dict(kernel_size=8, stride=(8, 4)), r'square patches.*stride=\(8, 4\)'),
        (dict(kernel_size=1, stride=1), r'2, 4, 8, 16 or 32 pixels.*stride=\(1, 1\)'),
        (dict(kernel_size=8, stride=8, padding=1), r'padding 0 and dilation 1, but got \(1, 1\)'),
        (dict(kernel_size=8, stride=8, dilation=2), r'dilation 1, but got \(0, 0\) and \(2, 2\)'),
        (
            dict(kernel_size=16, stride=16, out_channels=20),
            'multiple of 8, but got out_channels=20',
        ),
    ],
)
def test_bad_values(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ConvStem(3, **dict(dict(out_channels=16), **kwargs))
