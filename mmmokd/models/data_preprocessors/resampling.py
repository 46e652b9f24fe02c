# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Resizing a batch of images, each from a box of its own, by two matrix products.

Pillow resizes along one axis after the other; a pixel of the result is a weighted mean of pixels of
the box, with weights that depend on the box alone. As matrices, (size, length of the axis), they
make a crop, a resize and a flip of one product per axis, whatever the boxes are:
``view = rows @ image @ columns.T``.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def _box(x: Tensor) -> Tensor:
    return ((x > -0.5) & (x <= 0.5)).to(x.dtype)


def _triangle(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp_(min=0)


def _hamming(x: Tensor) -> Tensor:
    # torch.sinc has the pi in it, as the cosine's argument has.
    return torch.sinc(x) * (0.54 + 0.46 * torch.cos(math.pi * x)) * (x.abs() < 1)


def _cubic(x: Tensor) -> Tensor:
    # Keys' kernel with a = -0.5.
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0))


def _lanczos(x: Tensor) -> Tensor:
    return torch.sinc(x) * torch.sinc(x / 3) * (x.abs() < 3)


# By name: the filter and its support, in pixels of the result where that is smaller.
FILTERS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = dict(
    box=(_box, 0.5),
    bilinear=(_triangle, 1.0),
    hamming=(_hamming, 1.0),
    bicubic=(_cubic, 2.0),
    lanczos=(_lanczos, 3.0),
)


def resampling_matrix(
    start: Tensor,
    length: Tensor,
    size: int,
    axis: int,
    interpolation: str = 'bicubic',
    flip: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Weights that cut a box out along one axis and resize it, as Pillow does.

    Only pixels of the box have a weight. Where the box is larger than the result, the filter is as
    wide as the reduction asks for, so that nothing is aliased.

    Args:
        start (Tensor): First coordinate of each of N boxes, in pixels; fractions are allowed.
            Shape (N, ), float32.
        length (Tensor): Their lengths, above 0. Shape (N, ).
        size (int): Length of the result, in pixels.
        axis (int): Length of the images along the axis, at least that of every box.
        interpolation (str): One of those of :class:`~mmmokd.structures.ViewGroup`. Defaults to
            ``'bicubic'``.
        flip (Tensor, optional): Whether the result is mirrored. Shape (N, ), bool. Defaults to None.
        dtype (torch.dtype): Of the weights, which are computed in float32. Defaults to
            ``torch.float32``.

    Returns:
        Tensor: Shape (N, size, axis); each row adds up to 1.
    """
    # Where a pixel begins and ends is not to depend on rounding. These are few numbers.
    exact = torch.float32 if start.device.type == 'mps' else torch.float64
    start, length = start.to(exact), length.to(exact)
    place = torch.arange(size, device=start.device, dtype=exact).expand(len(start), size)
    if flip is not None:
        place = torch.where(flip[:, None], size - 1 - place, place)
    scale = (length / size)[:, None]  # (N, 1)
    # The pixels whose middle is in the box: those of the box itself where it has no fractions.
    first = (start - 0.5).ceil().clamp_(0, axis - 1)
    number = ((start + length - 0.5).ceil().clamp_(max=axis) - first).clamp_(min=1)[:, None]
    first = first[:, None]  # (N, 1)
    # From here on, coordinates count from the first pixel.
    center = (place + 0.5) * scale + (start[:, None] - first)  # (N, size)
    center = torch.minimum(center.clamp_(min=0), number - 1e-3)
    if interpolation == 'nearest':
        base = center.floor()
        weights = torch.ones_like(base)[..., None]
    else:
        kernel, support = FILTERS[interpolation]
        # As many as the largest box needs: what is drawn does not change a shape.
        taps = min(axis, 2 * math.ceil(support * max(axis / size, 1)) + 1)
        stretch = scale.clamp(min=1)
        left = (center - support * stretch + 0.5).floor_().clamp_(min=0)
        right = torch.minimum((center + support * stretch + 0.5).floor_(), number)
        base = torch.minimum(left, axis - taps - first)  # (N, size)
        tap = torch.arange(taps, device=base.device, dtype=exact)
        low, high, middle = (x[..., None] for x in (left - base, right - base, center - base))
        weights = kernel((tap - middle + 0.5) / stretch[..., None])
        weights *= (tap >= low) & (tap < high)
        weights /= weights.sum(dim=-1, keepdim=True)  # (N, size, taps)
    pixel = (base + first).long()[..., None] + torch.arange(weights.shape[-1], device=base.device)
    matrix = torch.zeros(len(start), size, axis, dtype=dtype, device=start.device)
    return matrix.scatter_(2, pixel, weights.to(dtype))


def resize_boxes(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Apply the matrices of both axes.

    Both products run over contiguous memory: the first one takes all views of an image at once, the
    second one every view by itself.

    Args:
        images (Tensor): Shape (B, H, 3, W), of the matrices' type: rows first, then channels.
        rows (Tensor): From :func:`resampling_matrix`, of n views of each image. Shape
            (B * n, h, H).
        columns (Tensor): Likewise, shape (B * n, w, W).

    Returns:
        Tensor: Shape (B * n, h, 3, w), of the same type; neither rounded nor limited.
    """
    batch, height, channels, width = images.shape
    size = rows.shape[1]
    tall = torch.bmm(rows.view(batch, -1, height), images.reshape(batch, height, channels * width))
    wide = torch.bmm(tall.view(len(rows), size * channels, width), columns.transpose(1, 2))
    return wide.view(len(rows), size, channels, columns.shape[1])
