# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""One contract for the backbones of mmpretrain and timm, whatever their output looks like."""

import math

import pytest
import torch
from backbone_families import FAMILIES, build
from mmpretrain.models.necks import GlobalAveragePooling
from timm.layers import SelectAdaptivePool2d
from timm.layers.pool1d import global_pool_nlc
from torch import nn

from mmmokd.models.branches import AutoAdapter, infer_features
from mmmokd.registry import MODELS


def timm_model(backbone):
    """timm's own model in mmpretrain's wrapper, None for a backbone of mmpretrain."""
    return getattr(backbone, 'timm_model', None)


def channels_first(backbone, output):
    fmt = str(getattr(timm_model(backbone), 'output_fmt', 'NCHW'))
    return output.permute(0, 3, 1, 2) if fmt.endswith('NHWC') else output


def pooled_by_the_library(backbone, images, output):
    """The class token or the mean over the map, as mmpretrain or timm itself gives it."""
    model = timm_model(backbone)
    if output.dim() == 4:
        if model is None:
            return GlobalAveragePooling()((output,))[-1]
        fmt = str(getattr(model, 'output_fmt', 'NCHW')).split('.')[-1]
        return SelectAdaptivePool2d(pool_type='avg', flatten=True, input_fmt=fmt)(output)
    if model is not None:
        token = getattr(model, 'cls_token', None) is not None
        prefix = getattr(model, 'num_prefix_tokens', 1 if token else 0)
        return global_pool_nlc(output, 'token' if token else 'avg', num_prefix_tokens=prefix)
    if getattr(backbone, 'cls_token', None) is None:
        return output.mean(dim=1)
    backbone.out_type = 'cls_token'
    token = backbone(images)[-1]
    backbone.out_type = 'raw'
    return token[0] if isinstance(token, tuple) else token


def map_by_the_library(backbone, images, output):
    """The (B, C, h, w) map, where mmpretrain or timm itself gives one, else None."""
    model = timm_model(backbone)
    if output.dim() == 4:
        return channels_first(backbone, output)
    if hasattr(model, 'forward_intermediates'):
        normed = hasattr(model, 'norm')
        maps = model.forward_intermediates(images, indices=1, norm=normed, intermediates_only=True)
        # Without a class token timm has its last norm behind the pooling, Hiera in its head.
        last_norm = getattr(model, 'fc_norm', getattr(model.head, 'norm', nn.Identity()))
        return last_norm(maps[-1].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    if hasattr(backbone, '_format_output') and 'featmap' in getattr(backbone, 'OUT_TYPES', ()):
        backbone.out_type = 'featmap'
        found = backbone(images)[-1]
        backbone.out_type = 'raw'
        return found
    return None


def check_features(backbone, images, outputs, features, grid):
    pooled = pooled_by_the_library(backbone, images, outputs[-1])
    maps = map_by_the_library(backbone, images, outputs[-1])
    assert features.grid == grid
    assert features.tokens.shape == (len(images), math.prod(grid), pooled.shape[1])
    torch.testing.assert_close(features.pooled, pooled, rtol=1e-5, atol=1e-6)
    if maps is None:
        assert torch.equal(features.tokens, outputs[-1][:, -math.prod(grid) :])
        return
    for row in range(grid[0]):
        for column in range(grid[1]):
            token = features.tokens[:, row * grid[1] + column]
            torch.testing.assert_close(token, maps[:, :, row, column])


@pytest.mark.parametrize('name', FAMILIES)
def test_family(name, monkeypatch):
    family = FAMILIES[name]
    backbone = build(family.cfg)
    adapter = MODELS.build(family.adapter or dict(type='mmmokd.AutoAdapter'))
    for size, grid in zip(family.sizes, family.grids, strict=True):
        images = torch.randn(2, 3, *size)
        with torch.no_grad():
            outputs = backbone(images)
            features = adapter(outputs, backbone, size)
            if isinstance(adapter, AutoAdapter):
                check_features(backbone, images, outputs, features, grid)
            spec = infer_features(backbone, size, adapter)
            assert spec == (features.pooled.shape[1], features.tokens.shape[2], grid, size)
