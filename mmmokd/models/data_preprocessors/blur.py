# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Gaussian blur of a batch of views, each of a radius of its own."""

import torch
from torch import Tensor

PASSES = 3


def blur_matrix(radius: Tensor, size: int) -> Tensor:
    """Pillow's Gaussian blur along one axis, as a matrix.

    Pillow approximates the Gaussian by three passes of a box with fractional ends and the same
    standard deviation (`Gwosdek et al., 2011
    <https://www.mia.uni-saarland.de/Publications/gwosdek-ssvm11.pdf>`_); beyond an end of the axis
    it sees the last pixel again.

    Args:
        radius (Tensor): Standard deviation for each of N views, in pixels. Shape (N, ), float32.
        size (int): Length of the axis, in pixels.

    Returns:
        Tensor: Shape (N, size, size), float32; each row adds up to 1.
    """
    variance = radius.square() / PASSES
    whole = (((12 * variance + 1).sqrt() - 1) / 2).floor()
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    part = part / (6 * (variance - (whole + 1).square()))
    full = 1 / (2 * (whole + part) + 1)  # weight of the pixels that are in the box as a whole
    ends = (1 - (2 * whole + 1) * full) / 2  # of the two that are in it in part
    whole, full, ends = (x[:, None, None] for x in (whole, full, ends))
    place = torch.arange(size, device=radius.device, dtype=radius.dtype)
    distance = (place[:, None] - place).abs()
    box = full * (distance <= whole) + ends * (distance == whole + 1)  # (N, size, size)
    # What lies beyond the first or last pixel, seen from each place.
    beyond = [
        (whole - to).clamp(min=0) * full + ends * (to <= whole) for to in (place, place.flip(0))
    ]
    box[:, :, 0] += beyond[0][:, 0]
    box[:, :, -1] += beyond[1][:, 0]
    return box @ box @ box


def blur(views: Tensor, radius: Tensor, dtype: torch.dtype) -> Tensor:
    """Blur views.

    Args:
        views (Tensor): Shape (N, h, 3, w), whole levels.
        radius (Tensor): Standard deviation for each of them, in pixels. Shape (N, ), float32.
        dtype (torch.dtype): Of the products.

    Returns:
        Tensor: Whole levels, of the type of ``views``.
    """
    number, height, channels, width = views.shape
    columns = blur_matrix(radius, width)
    rows = columns if height == width else blur_matrix(radius, height)
    wide = views.to(dtype).reshape(number, height * channels, width)
    wide = torch.bmm(wide, columns.to(dtype).transpose(1, 2))
    blurred = torch.bmm(rows.to(dtype), wide.view(number, height, channels * width))
    return blurred.view_as(views).to(views.dtype).round_()
