# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Against the plain form by Pillow: pixel by pixel for drawn parameters, and over many draws."""

import colorsys

import cv2
import numpy as np
import pytest
import torch
from image_testing import ks_distance
from PIL import Image
from plain_views import plain_view, plain_view_of

from mmmokd.datasets import MultiCrop
from mmmokd.datasets.transforms.view_pixels import (
    ViewStep,
    blur,
    blur_kernel,
    make_view,
    resize,
    shift_hue,
    to_planes,
)
from mmmokd.structures import ViewGroup, ViewSampler

OFF = dict(flip=0, color_jitter_prob=1, color_jitter=(0, 0, 0, 0), grayscale=0, blur=0)
JITTER = (0.4, 0.4, 0.2, 0.1)


def photo(height=150, width=200):
    """Smooth colors, black and white among them, and some grain."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (8, 10, 3), dtype=np.uint8)
    img = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(img + rng.normal(0, 12, img.shape), 0, 255).astype(np.uint8)


def differences(img, num, **kwargs):
    """Mean absolute, mean and largest difference to the plain form, in levels."""
    group = ViewGroup(num=num, **dict(OFF, size=48, scale=(0.1, 0.9)) | kwargs)
    params = ViewSampler([group]).draw([img.shape[:2]], torch.Generator().manual_seed(0))
    found = []
    for step in map(ViewStep, *(field[0].tolist() for field in params)):
        view = to_planes(make_view(img, group, step))
        rgb = img if img.ndim == 3 else np.dstack([img] * 3)
        found.append(
            view.astype(int) - np.asarray(plain_view_of(Image.fromarray(rgb), group, step))
        )
    found = np.stack(found)
    return np.abs(found).mean(), found.mean(), np.abs(found).max()


@pytest.mark.parametrize(
    ('setting', 'levels', 'most'),
    [
        (dict(), 0.05, 2),
        (dict(flip=1), 0.05, 2),
        (dict(interpolation='bilinear'), 0.05, 2),
        (dict(interpolation='lanczos'), 0.0, 0),
        (
            dict(size=(20, 300), scale=(0.05, 0.1)),
            0.3,
            3,
        ),  # larger in one direction: torch rounds once
        (dict(color_jitter=(0.4, 0, 0, 0)), 0.1, 3),
        (dict(color_jitter=(0, 0.4, 0, 0)), 0.1, 3),
        (dict(color_jitter=(0, 0, 0.4, 0)), 0.2, 4),
        (dict(color_jitter=(0.8, 0.8, 0.8, 0)), 0.4, 10),
        (dict(grayscale=1), 0.05, 2),
        (dict(blur=1, blur_radius=(0.1, 0.6)), 0.7, 5),
        (dict(blur=1), 0.6, 20),  # at the edges, which Pillow repeats after each of three boxes
        (dict(solarize=1), 0.05, 255),  # a value right at the threshold
        # Pillow's hue, saturation and value have 8 bits, ours are floats.
        (dict(color_jitter=(0, 0, 0, 0.5)), 0.8, 16),
        (dict(color_jitter=JITTER, flip=0.5, grayscale=0.2, blur=0.5), 0.9, 25),
    ],
)
def test_pixels_of_the_same_parameters(setting, levels, most):
    mean, bias, largest = differences(photo(), 40, **setting)
    assert mean <= levels and largest <= most, (mean, largest)
    assert abs(bias) <= max(levels / 4, 0.01)


def test_pixels_of_gray_images():
    mean, _, largest = differences(photo()[..., 0].copy(), 40, color_jitter=JITTER, flip=0.5)
    assert mean < 0.1 and largest <= 3


def statistics(views):
    """Describe each view by a few numbers."""
    views = views.astype(np.float64)
    most, least = views.max(axis=3), views.min(axis=3)
    edges = views[:, 1:, 1:] - views[:, :-1, 1:] - views[:, 1:, :-1] + views[:, :-1, :-1]
    found = dict(
        saturation=(1 - least / np.maximum(most, 1)).mean(axis=(1, 2)),
        sharpness=np.log((edges**2).mean(axis=(1, 2, 3)) + 1),
    )
    for channel, name in enumerate(('red', 'green', 'blue')):
        found[f'mean of {name}'] = views[..., channel].mean(axis=(1, 2))
        found[f'variance of {name}'] = views[..., channel].var(axis=(1, 2))
    return found


def test_distributions_are_those_of_the_plain_form():
    num, img = 1200, photo(60, 80)
    group = ViewGroup(size=16, scale=(0.1, 0.8), num=num, solarize=0.2)
    torch.manual_seed(0)
    ours = np.stack(MultiCrop([group])(dict(img=img, channel_order='rgb'))['img'])
    plain, source = plain_view(group), Image.fromarray(img)
    theirs = np.stack([np.asarray(plain(source)) for _ in range(num)])
    limit = 2.23 * (2 / num) ** 0.5  # two samples of one distribution pass it once in 10,000 times
    found, expected = statistics(ours), statistics(theirs)
    for name, values in found.items():
        assert ks_distance(values, expected[name]) < limit, name
    for channel in range(3):  # shares of all pixels; views, not pixels, are independent
        bins = [np.bincount(x[..., channel].ravel() // 16, minlength=16) for x in (ours, theirs)]
        shares = [x / x.sum() for x in bins]
        assert np.abs(np.cumsum(shares[0] - shares[1])).max() < limit


def test_hue_turns_as_colorsys_has_it():
    img = photo(20, 20)
    for hue in (-0.5, -0.1, 0.06, 0.4):
        turn = int(hue * 255) / 255
        expected = [
            colorsys.hsv_to_rgb((h + turn) % 1, s, v)
            for h, s, v in (colorsys.rgb_to_hsv(*pixel) for pixel in img.reshape(-1, 3) / 255)
        ]
        expected = np.array(expected).reshape(img.shape) * 255
        assert np.abs(shift_hue(img, hue) - expected).max() < 0.51


def test_blur_kernel_has_the_variance_and_keeps_the_light():
    white = np.full((9, 30, 3), 255, np.uint8)
    for radius in np.linspace(0.05, 6, 120):
        kernel = blur_kernel(radius).astype(np.float64)
        at = np.arange(len(kernel)) - len(kernel) // 2
        assert kernel.sum() == pytest.approx(1) and len(kernel) % 2 == 1
        assert (kernel * at**2).sum() == pytest.approx(radius**2, rel=1e-3)
        assert (blur(white, radius) == 255).all()


def test_resize_does_not_alias():
    """A fine grating becomes its mean; without antialiasing it would become a coarse one."""
    img = np.zeros((256, 256, 3), np.uint8)
    img[:, ::2] = 200
    for interpolation in ('bilinear', 'bicubic', 'box', 'hamming', 'lanczos'):
        small = resize(img, (60, 60), interpolation)
        assert np.abs(small.astype(int) - 100).max() <= 25, interpolation


def test_planes():
    view = photo(5, 7)
    planes = to_planes(view)
    assert (planes == view).all() and planes.transpose(2, 0, 1).flags.c_contiguous
    assert (to_planes(view, reverse=True) == view[..., ::-1]).all()
    assert (to_planes(view[..., 0]) == view[..., :1]).all()
