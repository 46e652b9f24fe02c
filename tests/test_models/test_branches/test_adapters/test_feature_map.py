# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from mmmokd.models.branches import FeatureMapAdapter
from mmmokd.registry import MODELS

MAPS = dict(small=torch.randn(2, 5, 2, 3), large=torch.randn(2, 4, 4, 6), vector=torch.randn(2, 7))


def read(output, **kwargs):
    adapter = MODELS.build(dict(type='mmmokd.FeatureMapAdapter', **kwargs))
    return adapter(output, nn.Identity(), (64, 96))


@pytest.mark.parametrize('index', [0, -2, 'large'])
@pytest.mark.parametrize('channels_last', [False, True])
def test_one_of_several_maps(index, channels_last):
    expected = MAPS['large']
    output = dict(MAPS)
    if channels_last:
        output['large'] = expected.permute(0, 2, 3, 1)
    if not isinstance(index, str):
        output = [output['large'], output['small']]
    features = read(output, index=index, channels_last=channels_last)
    assert features.grid == (4, 6)
    for row in range(4):
        for column in range(6):
            assert torch.equal(features.tokens[:, 6 * row + column], expected[:, :, row, column])
    torch.testing.assert_close(features.pooled, expected.mean(dim=(2, 3)))


def test_a_pooled_feature_of_its_own():
    features = read(MAPS, index='small', pooled_index='vector')
    assert features.pooled is MAPS['vector'] and features.tokens.shape == (2, 6, 5)


def test_a_single_tensor():
    assert FeatureMapAdapter()(MAPS['small'], nn.Identity(), (64, 96)).grid == (2, 3)


@pytest.mark.parametrize(
    ('output', 'kwargs', 'message'),
    [
        (
            MAPS,
            dict(index='none'),
            "a map of 4 dimensions from output 'none' of the backbone Identity",
        ),
        (MAPS, {}, "output -1 of .*, but the backbone gave dict with 'small', 'large', 'vector'$"),
        (MAPS, dict(index='vector'), "reads a map of 4 dimensions from output 'vector'"),
        (MAPS, dict(index='small', pooled_index='large'), r'a pooled feature \(B, C\) from output'),
        ([MAPS['small']], dict(index=3), r'output 3 .* gave list of \(2, 5, 2, 3\)$'),
        (MAPS['small'], dict(index=1), r'output 1 .* gave \(2, 5, 2, 3\)$'),
        (None, {}, 'gave NoneType$'),
        ((), {}, 'gave tuple$'),
    ],
)
def test_outputs_that_it_does_not_find(output, kwargs, message):
    with pytest.raises(ValueError, match='the adapter FeatureMapAdapter .*' + message):
        read(output, **kwargs)
