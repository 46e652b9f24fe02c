# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Against torchvision's own draws, many of them."""

import numpy as np
import pytest
import torch
from image_testing import ks_distance
from torchvision import transforms as tv

from mmmokd.structures import ViewGroup, ViewSampler


def draw(group, size, num_images=400, seed=0):
    sampler = ViewSampler([group])
    params = sampler.draw([size] * num_images, torch.Generator().manual_seed(seed))
    return type(params)(*(field.reshape(-1, *field.shape[2:]) for field in params))


def close(ours, theirs):
    # Two samples of one distribution are further apart once in 10,000 times.
    return ks_distance(ours, theirs) < 2.23 * (1 / len(ours) + 1 / len(theirs)) ** 0.5


@pytest.mark.parametrize(
    ('size', 'scale', 'ratio'),
    [
        ((375, 500), (0.25, 1.0), (3 / 4, 4 / 3)),
        ((28, 28), (0.5, 1.0), (3 / 4, 4 / 3)),
        ((64, 100), (0.9, 1.0), (0.5, 1.9)),  # ten tries are often not enough
        ((20, 300), (0.3, 0.8), (3 / 4, 4 / 3)),  # never are
        ((300, 20), (0.3, 0.8), (3 / 4, 4 / 3)),
        ((1, 9), (0.05, 0.25), (3 / 4, 4 / 3)),
    ],
)
def test_boxes_are_torchvisions(size, scale, ratio):
    num = 2000
    ours = draw(ViewGroup(size=8, scale=scale, ratio=ratio, num=5), size, num // 5)
    torch.manual_seed(1)
    img = torch.empty(1, *size)
    theirs = [tv.RandomResizedCrop.get_params(img, scale, ratio) for _ in range(num)]
    for name, expected in zip(('top', 'left', 'height', 'width'), np.array(theirs).T, strict=True):
        assert close(getattr(ours, name), expected), name
    areas, ratios = ours.height * ours.width, ours.width / ours.height
    assert close(areas, np.prod(np.array(theirs)[:, 2:], axis=1))
    assert close(ratios, np.array([box[3] / box[2] for box in theirs]))
    assert (ours.top >= 0).all() and (ours.top + ours.height <= size[0]).all()
    assert (ours.left >= 0).all() and (ours.left + ours.width <= size[1]).all()
    assert min(ours.height.min(), ours.width.min()) >= 1


def test_colors_are_torchvisions():
    num, jitter = 4000, (0.4, 1.3, 0.2, 0.1)  # a contrast from 0, not from -0.3
    group = ViewGroup(size=8, scale=(0.5, 1.0), num=8, color_jitter=jitter, color_jitter_prob=1.0)
    ours = draw(group, (40, 50), num // 8)
    torch.manual_seed(1)
    settings = tv.ColorJitter(*jitter)
    ranges = settings.brightness, settings.contrast, settings.saturation, settings.hue
    theirs = [tv.ColorJitter.get_params(*ranges) for _ in range(num)]
    for place, name in enumerate(('brightness', 'contrast', 'saturation', 'hue'), 1):
        assert close(getattr(ours, name), np.array([each[place] for each in theirs])), name
    for step in range(4):  # each at each place in a quarter
        shares = (ours.order == step).mean(axis=0)
        assert shares == pytest.approx([0.25] * 4, abs=4 * (0.25 * 0.75 / num) ** 0.5)
    assert (np.sort(ours.order, axis=1) == np.arange(4)).all()


def test_shares_and_radii():
    group = ViewGroup(
        size=8, scale=(0.5, 1.0), num=5, flip=0.3, blur=0.4, blur_radius=(0.1, 2.0), solarize=0.2
    )
    ours = draw(group, (40, 50), 800)
    applied = dict(
        flip=(ours.flip, 0.3),
        color_jitter_prob=(ours.contrast != 1, 0.8),
        grayscale=(ours.grayscale, 0.2),
        blur=(ours.radius > 0, 0.4),
        solarize=(ours.solarize, 0.2),
    )
    for name, (values, prob) in applied.items():
        share = 4 * (prob * (1 - prob) / len(values)) ** 0.5
        assert values.mean() == pytest.approx(prob, abs=share), name
    together = (ours.contrast != 1) == (ours.hue != 0)
    assert together.all()
    radii = ours.radius[ours.radius > 0]
    assert close(radii, np.linspace(0.1, 2.0, 5000))
    for a, b in [(ours.flip, ours.grayscale), (ours.flip, ours.left), (ours.hue, ours.contrast)]:
        assert abs(np.corrcoef(a, b)[0, 1]) < 4 / len(a) ** 0.5


def test_groups_and_images_have_their_own():
    groups = [
        ViewGroup(size=8, scale=(0.5, 1.0), num=2, flip=0.0, blur=1.0, blur_radius=(1, 1)),
        ViewGroup(size=4, scale=(0.1, 0.2), num=3, flip=1.0, blur=0.0),
    ]
    sampler = ViewSampler(groups)
    assert [group.size[0] for group in sampler.views] == [8, 8, 4, 4, 4]
    sizes = [(40, 50), (200, 100), (1, 1)]
    params = sampler.draw(sizes, torch.Generator().manual_seed(0))
    assert all(field.shape[:2] == (3, 5) for field in params)
    assert (params.flip == [False, False, True, True, True]).all()
    assert (params.radius == [1, 1, 0, 0, 0]).all()
    shares = params.height * params.width / np.prod(sizes, axis=1)[:, None]
    assert (shares[:2, :2] > 0.45).all() and (shares[:2, 2:] < 0.22).all()
    assert (params.height[2] == 1).all() and (params.top[2] == 0).all()
    again = sampler.draw(sizes, torch.Generator().manual_seed(0))
    assert all((a == b).all() for a, b in zip(params, again, strict=True))
