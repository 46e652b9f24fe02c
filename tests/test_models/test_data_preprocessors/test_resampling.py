# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from PIL import Image

from mmmokd.models.data_preprocessors.resampling import resampling_matrix, resize_boxes
from mmmokd.structures.view_group import INTERPOLATIONS

AXIS = 60
STARTS, LENGTHS = [0.0, 7.0, 55.0, 20.0, 59.0], [60.0, 31.0, 5.0, 24.0, 1.0]


def matrices(size, interpolation, **kwargs):
    return resampling_matrix(
        torch.tensor(STARTS), torch.tensor(LENGTHS), size, AXIS, interpolation, **kwargs
    )


@pytest.mark.parametrize('interpolation', INTERPOLATIONS)
@pytest.mark.parametrize('size', [3, 24, 90])
def test_boxes_are_resized_as_by_pillow(interpolation, size):
    """On floats, which Pillow does not round; enlarged and reduced."""
    row = np.random.default_rng(0).normal(size=(1, AXIS)).astype(np.float32)
    filter_ = getattr(Image.Resampling, interpolation.upper())
    found = matrices(size, interpolation) @ torch.from_numpy(row[0])
    for start, length, ours in zip(STARTS, LENGTHS, found, strict=True):
        box = Image.fromarray(row[:, int(start) : int(start + length)])
        theirs = np.asarray(box.resize((size, 1), filter_))[0]
        if interpolation == 'nearest':  # Pillow's sums of steps miss a few exact middles
            assert np.mean(ours.numpy() == theirs) > 0.75
        else:
            np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_fractional_boxes():
    """A box that is half as large on an image that was reduced by half shows the same."""
    ramp = torch.arange(AXIS, dtype=torch.float32) + 0.5
    start, length = torch.tensor([10.3, 0.2, 59.9]), torch.tensor([20.5, 59.8, 0.1])
    for interpolation in INTERPOLATIONS:
        matrix = resampling_matrix(start, length, 8, AXIS, interpolation)
        torch.testing.assert_close(matrix.sum(-1), torch.ones(3, 8))
        middle = start[:, None] + (torch.arange(8) + 0.5) / 8 * length[:, None]
        found = matrix @ ramp
        inner = slice(1, -1)  # at the ends no pixel beyond the box is seen
        assert (found - middle)[:, inner].abs().max() < 0.6, interpolation


def test_flip_and_half_precision():
    flip = torch.tensor([True, False, True, False, True])
    plain = matrices(16, 'bicubic')
    flipped = matrices(16, 'bicubic', flip=flip)
    assert torch.equal(flipped, torch.where(flip[:, None, None], plain.flip(1), plain))
    half = matrices(16, 'bicubic', dtype=torch.float16)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), plain, atol=2**-12, rtol=2**-11)


def test_both_axes_of_every_view():
    images = torch.rand(2, 12, 3, 10)
    rows, columns = torch.rand(6, 5, 12), torch.rand(6, 4, 10)
    found = resize_boxes(images, rows, columns)
    for view in range(6):
        expected = rows[view] @ images[view // 3].transpose(0, 1) @ columns[view].T  # (3, 5, 4)
        torch.testing.assert_close(found[view], expected.transpose(0, 1))
