# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn
from weights_testing import build, randomize

from mmmokd.transfer.branch_info import complete_info
from mmmokd.transfer.libraries import build_library
from mmmokd.transfer.libraries.base import pooled
from mmmokd.transfer.same_features import check_same_features

CNN = dict(type='ResNet', depth=18, base_channels=8, stem_channels=8)


def filled(cfg=CNN):
    backbone = build(dict(cfg))
    randomize(backbone)
    weights = backbone.state_dict()
    library = build_library('detectron2', complete_info(weights, cfg))
    library.model.load_state_dict(weights)
    return weights, library


def test_the_same_is_let_through():
    weights, library = filled()
    check_same_features(library, weights)
    state = library.model.state_dict()  # left as they were
    assert all(torch.equal(state[key], value) for key, value in weights.items())
    assert all(state[key].dtype == value.dtype for key, value in weights.items())


def widen_eps(model):
    model.layer4[1].bn2.eps = 1.1e-5


def another_stride(model):
    model.layer4[0].conv1.stride = model.layer4[0].downsample[0].stride = (1, 1)


def no_number(model):
    model.conv1.weight.data[0] = torch.nan


def cut(model):
    model.layer4 = nn.Identity()


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (widen_eps, 'its features differ by up to [0-9.]+e-'),
        (another_stride, 'its features differ'),
        (no_number, 'its features differ by up to nan'),
        (cut, r'gives features of shape \(2, 32\), not \(2, 64\)'),
    ],
)
def test_another_computation_is_refused(change, message):
    weights, library = filled()
    change(library.model)
    with pytest.raises(ValueError, match='takes the weights of .*' + message):
        check_same_features(library, weights)


def test_pooled():
    image_map = torch.rand(2, 3, 4, 4)
    assert torch.equal(pooled((None, image_map)), image_map.mean((2, 3)))
    assert torch.equal(pooled(image_map[..., 0, 0]), image_map[..., 0, 0])
