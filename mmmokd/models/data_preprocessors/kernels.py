# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Kernels for GPUs, by Triton: one launch in place of dozens.

What they compute is the plain text of :mod:`.resampling` and :mod:`.color`, to which they are equal.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
# Filters that have a kernel: their number in it, and their support.
FILTERS = dict(bilinear=(0, 1.0), bicubic=(1, 2.0))
BLOCK = 1024
WARPS = 8


@triton.jit
def _matrix(start, length, flip, out, size, axis, BICUBIC: tl.constexpr, SUPPORT: tl.constexpr,
            WIDTH: tl.constexpr):  # fmt: skip
    """One row of one matrix: the weights of all pixels in one pixel of the result."""
    row, view = tl.program_id(0), tl.program_id(1)
    begin = tl.load(start + view).to(tl.float64)
    span = tl.load(length + view).to(tl.float64)
    place = tl.where(tl.load(flip + view) > 0, size - 1 - row, row).to(tl.float64)
    scale = span / size
    first = tl.minimum(tl.maximum(tl.ceil(begin - 0.5), 0.0), axis - 1.0)
    number = tl.maximum(tl.minimum(tl.ceil(begin + span - 0.5), axis * 1.0) - first, 1.0)
    center = tl.maximum((place + 0.5) * scale + (begin - first), 0.0)
    center = tl.minimum(center, number - 1e-3)
    stretch = tl.maximum(scale, 1.0)
    left = tl.maximum(tl.floor(center - SUPPORT * stretch + 0.5), 0.0)
    right = tl.minimum(tl.floor(center + SUPPORT * stretch + 0.5), number)
    column = tl.arange(0, WIDTH)
    pixel = column.to(tl.float64) - first
    x = tl.abs((pixel - center + 0.5) / stretch).to(tl.float32)
    if BICUBIC:
        near = (1.5 * x - 2.5) * x * x + 1
        far = ((-0.5 * x + 2.5) * x - 4) * x + 2
        weight = tl.where(x < 1, near, tl.where(x < 2, far, 0.0))
    else:
        weight = tl.maximum(1 - x, 0.0)
    weight = tl.where((pixel >= left) & (pixel < right), weight, 0.0)
    weight = weight / tl.sum(weight, axis=0)
    target = out + (view.to(tl.int64) * size + row) * axis + column
    tl.store(target, weight.to(out.dtype.element_ty), mask=column < axis)


def resampling_matrix(
    start: Tensor,
    length: Tensor,
    size: int,
    axis: int,
    interpolation: str,
    flip: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """As :func:`.resampling.resampling_matrix`, for the filters of ``FILTERS``.

    Args:
        start (Tensor): See there; as the rest, on the GPU.
        length (Tensor): See there.
        size (int): See there.
        axis (int): See there.
        interpolation (str): One of ``FILTERS``.
        flip (Tensor): Above 0 where the result is mirrored. Shape (N, ), float32.
        dtype (torch.dtype): Of the weights.

    Returns:
        Tensor: Shape (N, size, axis).
    """
    number, support = FILTERS[interpolation]
    out = torch.empty(len(start), size, axis, dtype=dtype, device=start.device)
    _matrix[(size, len(start))](
        start, length, flip, out, size, axis,
        BICUBIC=number == 1, SUPPORT=support, WIDTH=triton.next_power_of_2(axis), num_warps=4,
    )  # fmt: skip
    return out


@triton.jit
def _gray(red, green, blue):
    return tl.floor(red * (19595 / 65536) + green * (38470 / 65536) + blue * (7471 / 65536) + 0.5)


@triton.jit
def _blend(value, other, factor):
    return tl.floor(tl.minimum(tl.maximum((value - other) * factor + other, 0.0), 255.0))


@triton.jit
def _turn(value, chroma, hue, corner):
    k = hue + corner
    k = k - 6 * tl.floor(tl.div_rn(k, 6.0))
    share = tl.minimum(tl.maximum(tl.minimum(k, 4 - k), 0.0), 1.0)
    return tl.floor(value - chroma * share + 0.5)


@triton.jit
def _shift_hue(red, green, blue, shift):
    value = tl.maximum(tl.maximum(red, green), blue)
    chroma = value - tl.minimum(tl.minimum(red, green), blue)
    divisor = tl.maximum(chroma, 1.0)
    hue = tl.where(
        value == red,
        tl.div_rn(green - blue, divisor),
        tl.where(
            value == green,
            2 + tl.div_rn(blue - red, divisor),
            4 + tl.div_rn(red - green, divisor),
        ),
    )
    hue = tl.div_rn(hue, hue * 0 + 6.0) + 1
    hue = tl.where(chroma > 0, tl.floor((hue - tl.floor(hue)) * 255), 0.0) + shift
    hue = (hue - 256 * tl.floor(hue / 256)) * (6 / 255)
    saturation = tl.div_rn(
        tl.floor(tl.div_rn(chroma * 255, tl.maximum(value, 1.0))), value * 0 + 255.0
    )
    chroma = value * saturation
    red = _turn(value, chroma, hue, 5.0)
    green = _turn(value, chroma, hue, 3.0)
    blue = _turn(value, chroma, hue, 1.0)
    return red, green, blue


@triton.jit
def _step(red, green, blue, step, value, mean):
    """One step of the color jitter; a negative hue is none."""
    if step == 3:
        if value >= 0:
            red, green, blue = _shift_hue(red, green, blue, value)
    else:
        other = tl.where(step == 2, _gray(red, green, blue), tl.where(step == 1, mean, 0.0))
        red = _blend(red, other, value)
        green = _blend(green, other, value)
        blue = _blend(blue, other, value)
    return red, green, blue


@triton.jit
def _level(source, mask):
    """A value as a whole level; a half goes to the even one, as torch.round does."""
    value = tl.load(source, mask=mask, other=0.0).to(tl.float32)
    level = tl.floor(value + 0.5)
    odd = level - 2 * tl.floor(level * 0.5)
    level = tl.where((level - value == 0.5) & (odd == 1), level - 1, level)
    return tl.minimum(tl.maximum(level, 0.0), 255.0)


@triton.jit
def _jitter(source, out, steps, values, grayscale, pixels, width, BLOCK: tl.constexpr):
    """Whole levels, color jitter and grayscale of one view, (h, 3, w)."""
    view = tl.program_id(0)
    step_0, value_0 = tl.load(steps + 4 * view), tl.load(values + 4 * view)
    step_1, value_1 = tl.load(steps + 4 * view + 1), tl.load(values + 4 * view + 1)
    step_2, value_2 = tl.load(steps + 4 * view + 2), tl.load(values + 4 * view + 2)
    step_3, value_3 = tl.load(steps + 4 * view + 3), tl.load(values + 4 * view + 3)
    # How many steps come before the contrast, which needs the mean of what they give.
    before = tl.where(step_0 == 1, 0, tl.where(step_1 == 1, 1, tl.where(step_2 == 1, 2, 3)))
    base = view.to(tl.int64) * pixels * 3
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, pixels, BLOCK):
        pixel = start + tl.arange(0, BLOCK)
        mask = pixel < pixels
        place = source + base + pixel // width * 3 * width + pixel % width
        red, green = _level(place, mask), _level(place + width, mask)
        blue = _level(place + 2 * width, mask)
        if before > 0:
            red, green, blue = _step(red, green, blue, step_0, value_0, 0.0)
        if before > 1:
            red, green, blue = _step(red, green, blue, step_1, value_1, 0.0)
        if before > 2:
            red, green, blue = _step(red, green, blue, step_2, value_2, 0.0)
        total += tl.where(mask, _gray(red, green, blue), 0.0)
    mean = tl.floor(tl.sum(total, axis=0) / pixels + 0.5)
    is_gray = tl.load(grayscale + view) > 0
    for start in range(0, pixels, BLOCK):
        pixel = start + tl.arange(0, BLOCK)
        mask = pixel < pixels
        place = base + pixel // width * 3 * width + pixel % width
        red, green = _level(source + place, mask), _level(source + place + width, mask)
        blue = _level(source + place + 2 * width, mask)
        red, green, blue = _step(red, green, blue, step_0, value_0, mean)
        red, green, blue = _step(red, green, blue, step_1, value_1, mean)
        red, green, blue = _step(red, green, blue, step_2, value_2, mean)
        red, green, blue = _step(red, green, blue, step_3, value_3, mean)
        gray = _gray(red, green, blue)
        tl.store(out + place, tl.where(is_gray, gray, red), mask=mask)
        tl.store(out + place + width, tl.where(is_gray, gray, green), mask=mask)
        tl.store(out + place + 2 * width, tl.where(is_gray, gray, blue), mask=mask)


def jitter(views: Tensor, steps: Tensor, values: Tensor, grayscale: Tensor) -> Tensor:
    """Round resized views to whole levels, jitter their colors, and make some of them gray.

    Args:
        views (Tensor): RGB, shape (N, h, 3, w), contiguous, of any type of floats.
        steps (Tensor): What each of the four steps is: 0 brightness, 1 contrast, 2 saturation, 3
            hue. Shape (N, 4), float32.
        values (Tensor): The factor of each step; of hue the shift in whole 255ths of the turn, or a
            negative number for none. Shape (N, 4), float32.
        grayscale (Tensor): Above 0 where the view becomes gray. Shape (N, ), float32.

    Returns:
        Tensor: New views, whole levels, float32.
    """
    number, height, _, width = views.shape
    out = torch.empty_like(views, dtype=torch.float32)
    _jitter[(number,)](
        views, out, steps, values, grayscale, height * width, width, BLOCK=BLOCK, num_warps=WARPS
    )
    return out
