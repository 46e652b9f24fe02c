# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmmokd.models.branches import PyramidAdapter

MAPS = [torch.randn(2, 3, 8, 12), torch.randn(2, 4, 4, 6), torch.randn(2, 5, 2, 3)]


def read(output=MAPS, **kwargs):
    return PyramidAdapter(**kwargs)(output, nn.Identity(), (64, 96))


def test_all_maps_on_the_last_grid():
    features = read()
    assert features.grid == (2, 3) and features.tokens.shape == (2, 6, 12)
    for row in range(2):
        for column in range(3):
            cells = [
                one[:, :, row * s : (row + 1) * s, column * s : (column + 1) * s].mean(dim=(2, 3))
                for one, s in zip(MAPS, (4, 2, 1), strict=True)
            ]
            torch.testing.assert_close(features.tokens[:, 3 * row + column], torch.cat(cells, 1))
    torch.testing.assert_close(
        features.pooled, torch.cat([one.mean(dim=(2, 3)) for one in MAPS], dim=1)
    )


def test_some_maps_on_a_larger_grid():
    features = read([one.permute(0, 2, 3, 1) for one in MAPS], indices=[2, 1], grid_index=1,
                    channels_last=True)  # fmt: skip
    larger = F.interpolate(MAPS[2], size=(4, 6), mode='bilinear')
    expected = torch.cat([larger, MAPS[1]], dim=1).flatten(2).transpose(1, 2)
    assert features.grid == (4, 6)
    torch.testing.assert_close(features.tokens, expected)


def test_keys():
    features = read(dict(a=MAPS[0], b=MAPS[1], c=None), indices=['a', 'b'], grid_index='b')
    assert features.tokens.shape == (2, 24, 7)


@pytest.mark.parametrize(
    ('output', 'kwargs', 'message'),
    [
        (
            MAPS[0],
            {},
            r'reads several maps, but the backbone Identity gave \(2, 3, 8, 12\): set its out',
        ),
        (MAPS, dict(indices=[0, 3]), 'a map of 4 dimensions from output 3'),
        ([*MAPS, torch.zeros(2, 5)], {}, r'from output -1 .* gave list of \(2, 3, 8, 12\), '),
    ],
)
def test_outputs_that_are_not_its_maps(output, kwargs, message):
    with pytest.raises(ValueError, match='the adapter PyramidAdapter .*' + message):
        read(output, **kwargs)
