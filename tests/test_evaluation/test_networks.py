# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from mokd_testing import branch_cfg
from torch import nn

from mmmokd.evaluation.networks import check_gives_maps, find_networks
from mmmokd.utils.errors import ConfigError


def test_networks_of_branches(build_mokd):
    model = build_mokd().eval()
    images = torch.randn(2, 3, 32, 32)
    found = find_networks(model, ('teacher', 'student'))
    assert list(found) == ['cnn.teacher', 'vit.teacher', 'cnn.student', 'vit.student']
    for name, network in found.items():
        branch, which = name.split('.')
        expected = getattr(model.branches[branch], which)
        assert network.backbone is expected.backbone
        features = network.extract(images)
        assert torch.equal(features.pooled, expected.extract(images).pooled)
        height, width = features.grid
        assert features.tokens.shape == (2, height * width, features.pooled.shape[1])


def test_branch_without_ema_is_evaluated_by_its_student(build_mokd):
    model = build_mokd(dict(cnn=branch_cfg('cnn', ema=False), vit=branch_cfg('vit')))
    found = find_networks(model)
    assert list(found) == ['cnn.teacher', 'vit.teacher']
    assert found['cnn.teacher'].backbone is model.branches['cnn'].student.backbone
    assert found['vit.teacher'].backbone is model.branches['vit'].teacher.backbone


class Plain(nn.Module):
    """Gives what it is told to."""

    def __init__(self, features):
        super().__init__()
        self.backbone = nn.Identity()
        self.features = features

    def extract_feat(self, images):
        return self.features


@pytest.mark.parametrize('wrap', [lambda x: x, lambda x: (None, x)])
@pytest.mark.parametrize('shape', [(2, 5), (2, 5, 3, 4)])
def test_other_models_give_their_last_stage(shape, wrap):
    value = torch.randn(shape)
    model = Plain(wrap(value))
    (found,) = find_networks(model, ('student',)).values()
    assert found.backbone is model.backbone
    pooled, tokens, grid = found.extract(torch.zeros(2, 3, 8, 8))
    assert torch.equal(pooled, value.reshape(2, 5, -1).mean(dim=2))
    assert torch.equal(tokens.transpose(1, 2).flatten(), value.flatten())
    assert grid == (tuple(shape[2:]) or (1, 1))


@pytest.mark.parametrize('shape', [(3, 5), (2, 7, 5)])
def test_features_that_are_neither_vectors_nor_maps(shape):
    (found,) = find_networks(Plain(torch.zeros(shape))).values()
    with pytest.raises(ConfigError, match='features must be of shape'):
        found.extract(torch.zeros(2, 3, 8, 8))


def test_maps_are_those_of_branches(build_mokd):
    check_gives_maps(build_mokd())
    with pytest.raises(ConfigError, match='of a model with branches; Plain has none'):
        check_gives_maps(Plain(torch.zeros(1)))
