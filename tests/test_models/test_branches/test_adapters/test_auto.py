# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Outputs by hand; those of real backbones are in test_backbone_contract.py."""

import pytest
import torch
from backbone_families import VIT, build
from torch import nn

from mmmokd.models.branches import AutoAdapter, adapt_features
from mmmokd.registry import MODELS


class Returns(nn.Module):
    """A backbone with a given output and given attributes."""

    def __init__(self, output, **attributes):
        super().__init__()
        self.output = output
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, images):
        return self.output


def adapt(output, size=(64, 64), **attributes):
    return adapt_features(output, Returns(output, **attributes), size)


def test_the_module_reads_as_the_function():
    maps = torch.randn(2, 5, 3, 4)
    found = AutoAdapter()((maps,), Returns(maps), (48, 64))
    assert all(torch.equal(x, y) for x, y in zip(found[:2], adapt(maps, (48, 64))[:2], strict=True))


def test_pair_of_map_and_class_token():
    maps, token = torch.randn(2, 5, 3, 4), torch.randn(2, 5)
    for output in ((maps, token), [(torch.rand(1, 1, 1, 1), torch.rand(1, 1)), (maps, token)]):
        features = adapt(output, (48, 64), cls_token=torch.rand(1))
        assert features.pooled is token and features.grid == (3, 4)
        torch.testing.assert_close(features.tokens, maps.flatten(2).transpose(1, 2))


def test_pair_of_tokens_and_class_token():
    tokens, token = torch.randn(2, 12, 5), torch.randn(2, 5)
    features = adapt((tokens, token), (48, 64), cls_token=torch.rand(1), num_extra_tokens=1)
    assert features.pooled is token and torch.equal(features.tokens, tokens)
    assert features.grid == (3, 4)


@pytest.mark.parametrize(
    ('cfg', 'found'),
    [
        (dict(type='VisionTransformer', arch=VIT, img_size=64), r'gave \(2, 24\)'),
        (
            dict(type='VisionTransformer', arch=VIT, img_size=64, out_type='avg_featmap'),
            r'VisionTransformer gave \(2, 24\), .*out_type',
        ),
        (dict(type='DistilledVisionTransformer', arch=VIT, img_size=64), r'gave \(2, 24\)'),
        (dict(type='ConvNeXt', arch='atto'), r'gave \(2, 320\), .*gap_before_final_norm'),
        (
            dict(
                type='TIMMBackbone', model_name='deit_tiny_distilled_patch16_224', img_size=64,
                depth=1,
            ),
            r'gave \(2, 192\)',
        ),
        (
            dict(
                type='MlpMixer', img_size=64,
                arch=dict(embed_dims=32, num_layers=1, tokens_mlp_dims=8, channels_mlp_dims=8),
            ),
            'MlpMixer gave 32 tokens for images of 64x64',
        ),
    ],
)  # fmt: skip
def test_output_that_cannot_be_read(cfg, found):
    backbone = build(cfg, MODELS.build)  # as the library builds it
    with torch.no_grad(), pytest.raises(ValueError, match=found):
        adapt_features(backbone(torch.rand(2, 3, 64, 64)), backbone, (64, 64))


@pytest.mark.parametrize(
    ('output', 'found'),
    [((), 'gave tuple'), (None, 'gave NoneType'), ({'x': 1}, 'gave dict'), ('map', 'gave str'),
     (torch.rand(2, 3, 1, 1, 1), r'gave \(2, 3, 1, 1, 1\)')],
)  # fmt: skip
def test_output_that_is_none_of_a_backbone(output, found):
    with pytest.raises(ValueError, match=f'the backbone Returns {found}'):
        adapt(output)
