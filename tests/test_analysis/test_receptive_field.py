# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmmokd.analysis import effective_receptive_field, receptive_area, receptive_radius
from mmmokd.utils.errors import ConfigError


def full_convolution(first, second, step):
    """Kernel of two strided convolutions after each other, the second ``step`` pixels apart."""
    side = len(first) + step * (len(second) - 1)
    kernel = [[0.0] * side for _ in range(side)]
    for i, row in enumerate(second):
        for j, factor in enumerate(row):
            for y, values in enumerate(first):
                for x, value in enumerate(values):
                    kernel[step * i + y][step * j + x] += factor * value
    return kernel


def test_of_linear_convolutions_equals_their_joint_kernel(float64):
    """It is known: every place of the map weighs the pixels by the kernels' convolution."""
    torch.manual_seed(0)
    strides, kernels = (2, 2, 1), []
    layers = [nn.Conv2d(1, 1, 3, stride=s, padding=1) for s in strides]
    stack = nn.Sequential(*layers)
    joint, step = [[1.0]], 1
    for layer, stride in zip(layers, strides, strict=True):
        joint, step = full_convolution(joint, layer.weight[0, 0].tolist(), step), step * stride
        kernels.append(len(joint))
    assert kernels == [3, 7, 15]
    found = effective_receptive_field(stack, torch.randn(2, 1, 32, 32), 3)
    # The place (4, 4) of an 8x8 map is over the pixel (16, 16): strides begin at the border.
    expected = torch.zeros(32, 32)
    expected[9:24, 9:24] = torch.tensor(joint).abs()
    torch.testing.assert_close(
        found / found.sum(), expected / expected.sum(), rtol=1e-9, atol=1e-15
    )


def test_of_many_channels_is_the_norm_of_the_jacobian(float64):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 5, 3, padding=1))
    images = torch.randn(3, 2, 5, 5)
    found = effective_receptive_field(network, images, 400, torch.Generator().manual_seed(0))
    expected = torch.zeros(5, 5)
    for image in images:
        jacobian = torch.autograd.functional.jacobian(lambda x: network(x[None])[0, :, 2, 2], image)
        expected += jacobian.norm(dim=0).mean(dim=0) / 3
    # The mean of |v| of a Gaussian v is sqrt(2 / pi) of its deviation.
    torch.testing.assert_close(found, expected * math.sqrt(2 / math.pi), rtol=0.1, atol=1e-12)
    assert network[0].weight.grad is None and not images.requires_grad


def test_of_normed_channels_is_not_that_of_their_sum(float64):
    """Channels after a LayerNorm add up to a constant, which has no receptive field."""
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 5, 3, padding=1)

    def to_map(images):
        return F.layer_norm(layer(images).movedim(1, -1), (5,)).movedim(-1, 1)

    images = torch.randn(3, 3, 5, 5)
    of_sum = effective_receptive_field(lambda x: to_map(x).sum(dim=1, keepdim=True), images)
    assert of_sum.max() < 1e-12
    assert (effective_receptive_field(to_map, images)[1:4, 1:4] > 0.01).all()


def radius_loop(field, share):
    """The least distance of a pixel from the center of mass within which the share lies."""
    pixels = [(y, x, value) for y, row in enumerate(field) for x, value in enumerate(row)]
    total = sum(value for *_, value in pixels)
    row, column = (sum(p[axis] * p[2] for p in pixels) / total for axis in (0, 1))
    mass = 0.0
    for distance, value in sorted((math.hypot(y - row, x - column), v) for y, x, v in pixels):
        mass += value
        if mass >= share * total - 1e-12:
            return distance


def test_radius_and_area_equal_loops():
    field = torch.rand(7, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 4
    for share in (0.01, 0.5, 0.8, 1.0):
        assert receptive_radius(field, share) == pytest.approx(radius_loop(field.tolist(), share))
    for fraction in (0.0455, 0.5):
        values = [value for row in field.tolist() for value in row]
        expected = sum(value >= fraction * max(values) for value in values) / 63
        assert receptive_area(field, fraction) == pytest.approx(expected)


def test_of_a_gaussian():
    """Half of its mass is within sqrt(2 ln 2) deviations; it is 0.0455 of its peak at sqrt(6.18)."""
    place = torch.arange(201.0)
    field = torch.exp(-((place[:, None] - 90) ** 2 + (place - 110) ** 2) / (2 * 20**2))
    assert receptive_radius(field, 0.5) == pytest.approx(20 * math.sqrt(2 * math.log(2)), abs=0.5)
    assert receptive_radius(field, 0.8) == pytest.approx(20 * math.sqrt(2 * math.log(5)), abs=0.5)
    area = math.pi * 20**2 * -2 * math.log(0.0455) / 201**2
    assert receptive_area(field) == pytest.approx(area, rel=0.01)


def test_what_is_no_field_is_refused():
    images = torch.randn(2, 3, 8, 8)
    with pytest.raises(ConfigError, match=r'a map \(B, C, h, w\) with B=2, but got \(2, 192\)'):
        effective_receptive_field(lambda x: x.flatten(1), images)
    with pytest.raises(ConfigError, match='does not depend on the images'):
        effective_receptive_field(lambda x: x.detach(), images)
    for field in (torch.zeros(4, 4), torch.full((4, 4), math.nan), torch.ones(4)):
        with pytest.raises(ConfigError, match='some of them positive'):
            receptive_area(field)
    with pytest.raises(ConfigError, match='share must be over 0 and at most 1, but got 80'):
        receptive_radius(torch.ones(4, 4), 80)
