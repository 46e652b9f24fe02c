# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from plain_views import photo

from mmmokd.models.data_preprocessors.blur import blur, blur_matrix

RADII = [0.1, 0.4, 0.9, 1.3, 2.0, 5.5]


@pytest.mark.parametrize('size', [1, 2, 7, 40])
def test_matrix_is_pillows_filter(size):
    """Of an image of one row, whose columns alone are blurred; Pillow rounds in each pass."""
    row = np.random.default_rng(0).integers(0, 256, (1, size), dtype=np.uint8)
    matrix = blur_matrix(torch.tensor(RADII), size)
    torch.testing.assert_close(matrix.sum(-1), torch.ones(len(RADII), size))
    for radius, found in zip(RADII, matrix @ torch.from_numpy(row[0]).float(), strict=True):
        plain = Image.fromarray(row).filter(ImageFilter.GaussianBlur((radius, 0)))
        assert np.abs(found.numpy() - np.asarray(plain)[0]).max() <= 1.6


def test_standard_deviation_is_the_radius():
    radii = torch.tensor([0.5, 1.0, 2.0, 3.7])
    place = torch.arange(101.0) - 50
    variance = (blur_matrix(radii, 101)[:, 50] * place.square()).sum(-1)
    torch.testing.assert_close(variance.sqrt(), radii, rtol=1e-4, atol=0)


@pytest.mark.parametrize('shape', [(30, 30), (20, 45)])
def test_views(shape):
    image = photo(*shape)
    views = torch.from_numpy(image).permute(0, 2, 1).float().repeat(len(RADII), 1, 1, 1)
    for dtype in (torch.float32, torch.float16):
        found = blur(views, torch.tensor(RADII), dtype).permute(0, 1, 3, 2).numpy()
        for radius, ours in zip(RADII, found, strict=True):
            plain = Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius))
            off = ours - np.asarray(plain, dtype=np.float32)
            assert np.abs(off).max() <= 4 and np.abs(off).mean() < 0.8 and abs(off.mean()) < 0.1
