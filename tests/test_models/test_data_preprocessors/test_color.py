# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""On the same 8-bit image, steps give exactly what Pillow gives."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as F

from mmmokd.models.data_preprocessors.color import blend, shift_hue, solarize, to_gray

# Every kind of color, gray ones and the corners among them.
RNG = np.random.default_rng(0)
COLORS = np.concatenate(
    [
        RNG.integers(0, 256, (3000, 3)),
        np.repeat(RNG.integers(0, 256, (50, 1)), 3, axis=1),
        np.stack(np.meshgrid([0, 1, 254, 255], [0, 1, 254, 255], [0, 1, 254, 255]), -1).reshape(-1, 3),
    ]
).astype(np.uint8)[:3114].reshape(-1, 2, 3)  # fmt: skip
IMAGE = Image.fromarray(COLORS)
FACTORS = [0.0, 0.3, 0.77, 1.0, 1.21, 1.8]


def views(number=1):
    return torch.from_numpy(COLORS).permute(0, 2, 1).float().repeat(number, 1, 1, 1)


def column(*values):
    return torch.tensor(values, dtype=torch.float32)[:, None, None, None]


def check(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours.permute(0, 2, 1).numpy(), np.asarray(theirs))


@pytest.mark.parametrize(
    ('step', 'of_gray', 'of_mean'),
    [(F.adjust_brightness, 0, 0), (F.adjust_contrast, 0, 1), (F.adjust_saturation, 1, 0)],
)
def test_blends(step, of_gray, of_mean):
    ones = [1.0] * len(FACTORS)
    found = blend(views(len(FACTORS)), column(*FACTORS), of_gray * column(*ones),
                  of_mean * column(*ones))  # fmt: skip
    check(found, [step(IMAGE, factor) for factor in FACTORS])


def test_hue():
    shifts = [-0.5, -0.1, -0.001, 0.003, 0.2, 0.5]
    numbers = torch.tensor([np.trunc(255 * shift) % 256 for shift in shifts]).float()[:, None, None]
    found = shift_hue(views(len(shifts)), numbers)
    for ours, shift in zip(found, shifts, strict=True):
        off = ours.permute(0, 2, 1).numpy() - np.asarray(
            F.adjust_hue(IMAGE, shift), dtype=np.float32
        )
        # Where a hue lies on the edge of a level, Pillow's mixture of types falls to either side.
        assert (off != 0).mean() < 0.003 and np.abs(off).max() <= 6


def test_gray_and_solarization():
    check(to_gray(views()).expand(-1, -1, 3, -1), [F.rgb_to_grayscale(IMAGE, 3)])
    check(solarize(views()), [F.solarize(IMAGE, 128)])
