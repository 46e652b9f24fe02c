# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The colors of a batch of views, each view with parameters of its own.

Values are whole levels, 0 to 255, in float32, and stay so: each step ends as Pillow's does on 8-bit
images, which cuts off fractions where it blends and rounds where it converts.
"""

import torch
from torch import Tensor

LEVELS = 255
GRAY = (19595 / 65536, 38470 / 65536, 7471 / 65536)  # red, green, blue (ITU-R 601), as Pillow's
SOLARIZE_THRESHOLD = 128


def to_gray(views: Tensor) -> Tensor:
    """The gray of each pixel.

    Args:
        views (Tensor): RGB, shape (N, h, 3, w), float32.

    Returns:
        Tensor: Whole levels, shape (N, h, 1, w).
    """
    red, green, blue = views.split(1, dim=2)
    gray = (red * GRAY[0]).add_(green, alpha=GRAY[1]).add_(blue, alpha=GRAY[2])
    return gray.add_(0.5).floor_()


def blend(views: Tensor, factor: Tensor, of_gray: Tensor, of_mean: Tensor) -> Tensor:
    """Brightness, contrast or saturation: a blend with black, with the mean gray or with the gray.

    Args:
        views (Tensor): RGB, shape (N, h, 3, w), float32; overwritten.
        factor (Tensor): 1 keeps a view, 0 gives what it is blended with. Shape (N, 1, 1, 1).
        of_gray (Tensor): 1 where the view is blended with its gray (saturation), else 0. Shape
            (N, 1, 1, 1).
        of_mean (Tensor): 1 where it is blended with its mean gray (contrast), else 0.

    Returns:
        Tensor: The views.
    """
    gray = to_gray(views)
    mean = gray.mean(dim=(1, 2, 3), keepdim=True).add_(0.5).floor_()
    other = gray.mul_(of_gray).add_(mean * of_mean)  # (N, h, 1, w)
    return views.sub_(other).mul_(factor).add_(other).clamp_(0, LEVELS).floor_()


def shift_hue(views: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue, by way of 8-bit HSV.

    Args:
        views (Tensor): RGB, shape (N, h, 3, w), float32.
        shift (Tensor): In whole 255ths of the turn, 0 to 255. Shape (N, 1, 1).

    Returns:
        Tensor: New views.
    """
    red, green, blue = views.unbind(dim=2)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    divisor = chroma.clamp(min=1)  # whole levels: where it is less, there is no hue
    hue = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    hue = (hue / 6 + 1).frac_().mul_(LEVELS).floor_().mul_(chroma > 0)
    hue = (hue + shift).remainder_(LEVELS + 1).mul_(6 / LEVELS)
    saturation = (chroma * LEVELS / value.clamp(min=1)).floor_().div_(LEVELS)
    chroma = value * saturation
    turned = []
    for corner in (5, 3, 1):  # https://en.wikipedia.org/wiki/HSL_and_HSV#HSV_to_RGB_alternative
        k = (hue + corner).remainder_(6)
        share = torch.minimum(k, 4 - k).clamp_(0, 1)
        turned.append(value - chroma * share)
    return torch.stack(turned, dim=2).add_(0.5).floor_()


def solarize(views: Tensor) -> Tensor:
    """Invert what is bright.

    Args:
        views (Tensor): Any shape, whole levels.

    Returns:
        Tensor: New views.
    """
    return torch.where(views >= SOLARIZE_THRESHOLD, LEVELS - views, views)
