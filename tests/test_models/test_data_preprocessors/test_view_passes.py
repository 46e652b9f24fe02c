# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Views made together, against views made one by one from the same parameters."""

import numpy as np
import pytest
import torch
from plain_views import photo, plain_views

from mmmokd.models.data_preprocessors.view_passes import (
    lay_out,
    make_views,
    plan_passes,
    to_device,
)
from mmmokd.structures import ViewGroup, ViewSampler

SHAPES, CANVAS = [(90, 120), (110, 70)], 120
IMAGES = [photo(*shape, seed) for seed, shape in enumerate(SHAPES)]
NONE = dict(color_jitter_prob=0.0, grayscale=0.0, blur=0.0)
JITTER = dict(NONE, color_jitter_prob=1.0)


def batch(dtype):
    images = torch.zeros(len(IMAGES), CANVAS, CANVAS, 3)
    for canvas, image in zip(images, IMAGES, strict=True):
        canvas[: image.shape[0], : image.shape[1]] = torch.from_numpy(image)
    return images.transpose(2, 3).to(dtype).contiguous()


def differences(group, dtype=torch.float32, seed=0):
    """Levels by which every view differs from the plain one, (views, images, h, w, 3)."""
    params = ViewSampler([group]).draw(SHAPES, torch.Generator().manual_seed(seed))
    views = list(range(group.num))
    arrays = lay_out(params, views, np.ones((len(IMAGES), 2)))
    (drawn,) = to_device([arrays], torch.device('cpu'))
    made = make_views(batch(dtype), drawn, group.size, group.interpolation)
    assert made.dtype == torch.float32 and torch.equal(made, made.round().clamp(0, 255))
    made = made.view(len(IMAGES), group.num, *made.shape[1:]).transpose(3, 4)
    plain = plain_views(IMAGES, params, [group.size] * group.num, group.interpolation)
    return made.transpose(0, 1).numpy() - np.array(plain, dtype=np.float32)


@pytest.mark.parametrize(
    ('settings', 'mean', 'most'),
    [
        (NONE, 0.25, 3),  # Pillow rounds between its two axes
        (dict(NONE, interpolation='bilinear', flip=1.0), 0.25, 1),
        (dict(NONE, interpolation='lanczos'), 0.25, 5),
        (dict(JITTER, color_jitter=(0.4, 0, 0, 0)), 0.25, 4),
        (dict(JITTER, color_jitter=(0, 0.4, 0, 0)), 0.25, 4),
        (dict(JITTER, color_jitter=(0, 0, 0.4, 0)), 0.25, 5),
        (dict(JITTER, color_jitter=(0, 0, 0, 0.5)), 0.5, 16),  # a level less may be another hue
        (dict(JITTER, color_jitter=(0.8, 0.8, 0.8, 0.2)), 0.5, 24),
        (dict(NONE, grayscale=0.5), 0.25, 3),
        (dict(NONE, blur=0.7), 0.5, 4),  # Pillow rounds between its six passes
        (dict(NONE, solarize=0.5), 0.25, 3),
        (dict(solarize=0.3), 0.5, 16),
    ],
)
def test_views_are_those_of_pillow(settings, mean, most):
    off = differences(ViewGroup(size=(40, 56), scale=(0.05, 1.0), num=10, **settings))
    assert np.abs(off).mean() < mean and abs(off.mean()) < 0.03
    assert np.quantile(np.abs(off), 0.999) <= max(1, most * 0.75) and np.abs(off).max() <= most


def test_half_precision_is_as_near():
    group = ViewGroup(size=(40, 56), scale=(0.05, 1.0), num=10, solarize=0.3)
    half, full = (np.abs(differences(group, dtype)) for dtype in (torch.float16, torch.float32))
    assert half.mean() < full.mean() + 0.02


def test_views_of_one_size_are_made_together():
    groups = [ViewGroup(size=8, scale=(0.5, 1)), ViewGroup(size=4, scale=(0.1, 1), num=2),
              ViewGroup(size=8, scale=(0.5, 1), blur=0.0),
              ViewGroup(size=8, scale=(0.5, 1), interpolation='box')]  # fmt: skip
    assert [(each.size, each.views) for each in plan_passes(groups)] == [
        ((8, 8), [0, 3]), ((4, 4), [1, 2]), ((8, 8), [4]),
    ]  # fmt: skip
