# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Views of one size, made together: what is drawn for them, and the images that come of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmmokd.structures import ViewGroup, ViewParams
from mmmokd.structures.view_params import CONTRAST, HUE, SATURATION

from .blur import blur
from .color import LEVELS, blend, shift_hue, solarize, to_gray
from .resampling import resampling_matrix, resize_boxes

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


def lay_out(params: ViewParams, views: Sequence[int], scales: np.ndarray) -> dict[str, np.ndarray]:
    """Lay out, as arrays of numbers, what a pass needs on the device.

    Args:
        params (ViewParams): Of B images and all of their views.
        views (Sequence[int]): The n views of the pass.
        scales (np.ndarray): By which each image was reduced after its size was taken, (height,
            width). Shape (B, 2).

    Returns:
        dict[str, np.ndarray]: By name, the views of an image next to each other: N = B * n. Names
        with ``_of`` are numbers of views that a step acts on; such steps are left out where
        there are none.
    """
    chosen = ViewParams(*(np.asarray(values)[:, views].reshape(-1, *np.shape(values)[2:])
                          for values in params))  # fmt: skip
    down, across = np.repeat(scales, len(views), axis=0).T
    found = dict(
        top=chosen.top * down,
        height=chosen.height * down,
        left=chosen.left * across,
        width=chosen.width * across,
        flip=chosen.flip,
        grayscale_of=np.flatnonzero(chosen.grayscale),
        solarize_of=np.flatnonzero(chosen.solarize),
        blur_of=np.flatnonzero(chosen.radius),
        radius=chosen.radius[chosen.radius > 0],
    )
    # By their numbers in `order`.
    steps = np.stack([chosen.brightness, chosen.contrast, chosen.saturation], axis=1)
    if np.any(steps != 1):
        order = chosen.order[chosen.order != HUE].reshape(-1, NUM_BLENDS)
        found['factor'] = np.take_along_axis(steps, order.astype(np.int64), axis=1)
        found['of_gray'], found['of_mean'] = order == SATURATION, order == CONTRAST
    slot = (chosen.order == HUE).argmax(axis=1)
    for number in range(NUM_BLENDS + 1):
        turned = np.flatnonzero((chosen.hue != 0) & (slot == number))
        found[f'hue_{number}_of'] = turned
        # As torchvision does: the fraction is cut off, a negative one comes from the other side.
        found[f'hue_{number}'] = np.trunc(chosen.hue[turned] * LEVELS) % (LEVELS + 1)
    return found


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
    # One type for all: numbers of views are exact up to 2^24.
    flat = torch.from_numpy(np.concatenate([a.ravel() for a in arrays]).astype(np.float32))
    if device.type == 'cuda':
        flat = flat.pin_memory()
    parts = iter(flat.to(device, non_blocking=True).split([array.size for array in arrays]))
    return [
        {
            name: (part.long() if name.endswith('_of') else part).view(array.shape)
            for (name, array), part in zip(each.items(), parts, strict=False)
        }
        for each in passes
    ]


def make_views(
    images: Tensor, params: Mapping[str, Tensor], size: tuple[int, int], interpolation: str
) -> Tensor:
    """Make the views of a pass.

    Args:
        images (Tensor): RGB, shape (B, H, 3, W), of the type that products are computed in: whole
            levels.
        params (dict[str, Tensor]): From :func:`to_device`, for B * n views.
        size (tuple[int, int]): (h, w), in pixels.
        interpolation (str): How they are resized.

    Returns:
        Tensor: RGB, whole levels, shape (B * n, h, 3, w), float32.
    """
    height, width = images.shape[1], images.shape[3]
    rows = resampling_matrix(
        params['top'], params['height'], size[0], height, interpolation, dtype=images.dtype
    )
    columns = resampling_matrix(
        params['left'], params['width'], size[1], width, interpolation,
        params['flip'] > 0, images.dtype,
    )  # fmt: skip
    views = resize_boxes(images, rows, columns).float()
    views = views.round_().clamp_(0, LEVELS)
    views = jitter(views, params)
    if len(chosen := params['grayscale_of']):
        views[chosen] = to_gray(views[chosen]).expand(-1, -1, 3, -1)
    if len(chosen := params['blur_of']):
        views[chosen] = blur(views[chosen], params['radius'], images.dtype)
    if len(chosen := params['solarize_of']):
        views[chosen] = solarize(views[chosen])
    return views


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
