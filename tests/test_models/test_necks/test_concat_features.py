# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import torch

from mmmokd.registry import MODELS


def test_features_side_by_side():
    neck = MODELS.build(dict(type='mmmokd.ConcatFeatures'))
    features = tuple(torch.randn(2, channels) for channels in (3, 5))
    (found,) = neck(features)
    assert found.shape == (2, 8)
    assert torch.equal(found[:, :3], features[0]) and torch.equal(found[:, 3:], features[1])
