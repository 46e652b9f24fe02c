# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from mmcv.cnn import build_norm_layer
from torch import nn


@pytest.mark.parametrize(
    ('shape', 'cls'), [((4, 6), nn.BatchNorm1d), ((2, 6, 3, 3), nn.BatchNorm2d)]
)
def test_features_and_maps(shape, cls):
    name, layer = build_norm_layer(dict(type='mmmokd.BatchNormXd', eps=1e-3), 6)
    expected = cls(6, eps=1e-3)
    assert name == 'bn' and layer.state_dict().keys() == expected.state_dict().keys()
    x = torch.randn(shape)
    assert torch.equal(layer(x), expected(x))
    assert torch.equal(layer.running_var, expected.running_var)
    with pytest.raises(ValueError, match=r'expected \(B, C, ...\), but got \(6,\)'):
        layer(torch.randn(6))
