# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Views of one size, made together: what is drawn for them, and the images that come of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from functools import cache
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor

from mmmokd.structures import ViewGroup, ViewParams
from mmmokd.structures.view_params import CONTRAST, HUE, SATURATION

from .blur import blur
from .color import LEVELS, blend, shift_hue, solarize, to_gray
from .resampling import resampling_matrix, resize_boxes

ALIGNED = 4  # numbers of 4 bytes
NUM_BLENDS = 3  # brightness, contrast, saturation


class SizePass(NamedTuple):
    """The views that are made together.

    Attributes:
        size (tuple[int, int]): Their (height, width), in pixels.
        interpolation (str): How they are resized.
        views (list[int]): Their numbers among all views of an image.
    """

    size: tuple[int, int]
    interpolation: str
    views: list[int]


def plan_passes(groups: Sequence[ViewGroup]) -> list[SizePass]:
    """Put together what can be made together: views of one size, also of several groups.

    Args:
        groups (Sequence[ViewGroup]): The groups.

    Returns:
        list[SizePass]: Every view is in one of them.
    """
    found: dict[tuple, list[int]] = {}
    views = [group for group in groups for _ in range(group.num)]
    for number, group in enumerate(views):
        found.setdefault((group.size, group.interpolation), []).append(number)
    return [SizePass(*key, numbers) for key, numbers in found.items()]


def lay_out(
    params: ViewParams, views: Sequence[int], scales: np.ndarray, fused: bool = False
) -> dict[str, np.ndarray]:
    """Lay out, as arrays of numbers, what a pass needs on the device.

    Args:
        params (ViewParams): Of B images and all of their views.
        views (Sequence[int]): The n views of the pass.
        scales (np.ndarray): By which each image was reduced after its size was taken, (height,
            width). Shape (B, 2).
        fused (bool): Whether it is for the kernels of a GPU. Defaults to False.

    Returns:
        dict[str, np.ndarray]: By name, the views of an image next to each other: N = B * n. Names
        with ``_of`` are numbers of views that a step acts on; such steps are left out where
        there are none.
    """
    chosen = ViewParams(
        *(np.asarray(values)[:, views].reshape(-1, *np.shape(values)[2:]) for values in params)
    )
    down, across = np.repeat(scales, len(views), axis=0).T
    found = dict(
        top=chosen.top * down,
        height=chosen.height * down,
        left=chosen.left * across,
        width=chosen.width * across,
        flip=chosen.flip,
        solarize_of=np.flatnonzero(chosen.solarize),
        blur_of=np.flatnonzero(chosen.radius),
        radius=chosen.radius[chosen.radius > 0],
    )
    return found | (_fused_colors if fused else _plain_colors)(chosen)


def _hue_shift(hue: np.ndarray) -> np.ndarray:
    # As torchvision does: the fraction is cut off, a negative one comes from the other side.
    return np.trunc(hue * LEVELS) % (LEVELS + 1)


def _plain_colors(params: ViewParams) -> dict[str, np.ndarray]:
    """Colors for :func:`jitter` and the steps after it."""
    found = dict(grayscale_of=np.flatnonzero(params.grayscale))
    # By their numbers in `order`.
    steps = np.stack([params.brightness, params.contrast, params.saturation], axis=1)
    if np.any(steps != 1):
        order = params.order[params.order != HUE].reshape(-1, NUM_BLENDS)
        found['factor'] = np.take_along_axis(steps, order.astype(np.int64), axis=1)
        found['of_gray'], found['of_mean'] = order == SATURATION, order == CONTRAST
    slot = (params.order == HUE).argmax(axis=1)
    for number in range(NUM_BLENDS + 1):
        turned = np.flatnonzero((params.hue != 0) & (slot == number))
        found[f'hue_{number}_of'] = turned
        found[f'hue_{number}'] = _hue_shift(params.hue[turned])
    return found


def _fused_colors(params: ViewParams) -> dict[str, np.ndarray]:
    """Colors for the kernel: every step of every view, and its factor."""
    hue = np.where(params.hue != 0, _hue_shift(params.hue), -1)
    values = np.stack([params.brightness, params.contrast, params.saturation, hue], axis=1)
    order = params.order.astype(np.int64)
    values = np.take_along_axis(values, order, axis=1)
    return dict(steps=order, values=values, grayscale=params.grayscale)


@cache
def load_kernels(device: torch.device) -> ModuleType | None:
    """The kernels of a device, after a first launch that compiles one.

    Args:
        device (torch.device): Where the views are made.

    Returns:
        module, optional: :mod:`.kernels`; None on other devices than GPUs, and, with a warning, where
        Triton cannot be used: the views are the same, but take longer.
    """
    if device.type != 'cuda':
        return None
    try:
        from . import kernels

        numbers = torch.zeros(1, 4, device=device)
        kernels.jitter(numbers.new_zeros(1, 1, 3, 1), numbers, numbers, numbers[:, 0])
        return kernels
    except Exception as error:  # no Triton, no C compiler, a GPU that it does not know, ...
        print_log(
            'Views are made without kernels of their own, which takes longer, for Triton cannot be '
            f'used: {type(error).__name__}: {error}',
            logger='current',
            level=logging.WARNING,
        )
        return None


def to_device(
    passes: Sequence[Mapping[str, np.ndarray]], device: torch.device
) -> list[dict[str, Tensor]]:
    """Bring the arrays of all passes to a device, in one transfer that nothing waits for.

    Args:
        passes (Sequence[dict[str, np.ndarray]]): From :func:`lay_out`.
        device (torch.device): Where to.

    Returns:
        list[dict[str, Tensor]]: The same; float32, numbers of views int64, others as they are.
    """
    arrays = [array for each in passes for array in each.values()]
    # Each begins where addresses are multiples of 16 bytes, for which kernels are compiled.
    steps = [-(-array.size // ALIGNED) * ALIGNED for array in arrays]
    # One type for all: numbers of views are exact up to 2^24.
    flat = torch.zeros(sum(steps), pin_memory=device.type == 'cuda')
    for array, part in zip(arrays, flat.split(steps), strict=True):
        part.numpy()[: array.size] = array.ravel()
    parts = iter(flat.to(device, non_blocking=True).split(steps))
    return [
        {name: _shaped(name, next(parts), array.shape) for name, array in each.items()}
        for each in passes
    ]


def _shaped(name: str, part: Tensor, shape: tuple[int, ...]) -> Tensor:
    part = part[: math.prod(shape)].view(shape)
    return part.long() if name.endswith('_of') else part


def make_views(
    images: Tensor,
    params: Mapping[str, Tensor],
    size: tuple[int, int],
    interpolation: str,
    kernels: ModuleType | None = None,
) -> Tensor:
    """Make the views of a pass.

    Args:
        images (Tensor): RGB, shape (B, H, 3, W), of the type that products are computed in: whole
            levels.
        params (dict[str, Tensor]): From :func:`to_device`, for B * n views; laid out as fused if
            there are kernels.
        size (tuple[int, int]): (h, w), in pixels.
        interpolation (str): How they are resized.
        kernels (module, optional): From :func:`load_kernels`. Defaults to None.

    Returns:
        Tensor: RGB, whole levels, shape (B * n, h, 3, w), float32.
    """
    views = resize_boxes(images, *_matrices(images, params, size, interpolation, kernels))
    if kernels is not None:
        colors = (params[name] for name in ('steps', 'values', 'grayscale'))
        views = kernels.jitter(views, *colors)
    else:
        views = jitter(views.float().round_().clamp_(0, LEVELS), params)
        if len(chosen := params['grayscale_of']):
            views[chosen] = to_gray(views[chosen]).expand(-1, -1, 3, -1)
    if len(chosen := params['blur_of']):
        views[chosen] = blur(views[chosen], params['radius'], images.dtype)
    if len(chosen := params['solarize_of']):
        views[chosen] = solarize(views[chosen])
    return views


def _matrices(
    images: Tensor,
    params: Mapping[str, Tensor],
    size: tuple[int, int],
    interpolation: str,
    kernels: ModuleType | None,
) -> list[Tensor]:
    """The matrices that cut out and resize rows, then columns."""
    fused = kernels is not None and interpolation in kernels.FILTERS
    make = kernels.resampling_matrix if fused else resampling_matrix
    flip = params['flip'] if fused else params['flip'] > 0
    axes = (
        ('top', 'height', size[0], images.shape[1], torch.zeros_like(flip)),
        ('left', 'width', size[1], images.shape[3], flip),
    )
    return [
        make(params[start], params[length], to, axis, interpolation, turn, images.dtype)
        for start, length, to, axis, turn in axes
    ]


def jitter(views: Tensor, params: Mapping[str, Tensor]) -> Tensor:
    """Brightness, contrast, saturation and hue, for each view in an order of its own.

    All of them but hue are one formula, so each of three steps is, for all views at once, the one
    whose turn it is. The hue is turned before, between or after them.

    Args:
        views (Tensor): Shape (N, h, 3, w); overwritten.
        params (dict[str, Tensor]): From :func:`to_device`.

    Returns:
        Tensor: The views.
    """
    for step in range(NUM_BLENDS + 1):
        if len(chosen := params[f'hue_{step}_of']):
            shift = params[f'hue_{step}'][:, None, None]
            views[chosen] = shift_hue(views[chosen], shift)
        if step < NUM_BLENDS and 'factor' in params:
            of_step = (params[name][:, step, None, None, None]
                       for name in ('factor', 'of_gray', 'of_mean'))  # fmt: skip
            views = blend(views, *of_step)
    return views
