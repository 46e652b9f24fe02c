# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise, permutations
from typing import NamedTuple

import numpy as np
import torch

from .view_group import ViewGroup

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
# So many boxes are drawn for a view; if none fits into the image, the box is a central one.
NUM_TRIES = 10
ORDERS = np.array(list(permutations(range(4))), dtype=np.int8)  # (24, 4)
NEUTRAL = np.array([1, 1, 1, 0])[:, None, None]  # brightness, contrast, saturation, hue
# Random numbers of each view: shares of the area and ratios of all tries, the place (2), chances (5),
# the jitter's values (4), its order and the radius (2).
_ENDS = [*accumulate((0, NUM_TRIES, NUM_TRIES, 2, 5, 4, 2))]
_PARTS = [slice(*ends) for ends in pairwise(_ENDS)]
NUM_DRAWS = _ENDS[-1]


class ViewParams(NamedTuple):
    """Drawn parameters of the V views of each of N images: plain numbers, no pixels.

    What would not act has the value that changes nothing: a factor of 1, a hue or radius of 0.

    Attributes:
        top (np.ndarray): First row of the crop's box in the image, in pixels. Shape (N, V), int64,
            as the next three.
        left (np.ndarray): Its first column.
        height (np.ndarray): Its number of rows, at least 1.
        width (np.ndarray): Its number of columns, at least 1.
        flip (np.ndarray): Whether the view is mirrored left to right. (N, V), bool.
        order (np.ndarray): The order of the steps of the color jitter: 0 is brightness, 1 contrast, 2
            saturation, 3 hue. (N, V, 4), int8.
        brightness (np.ndarray): Factor. (N, V), float64, as the next four.
        contrast (np.ndarray): Factor.
        saturation (np.ndarray): Factor.
        hue (np.ndarray): Shift, as a share of the whole turn, -0.5 to 0.5.
        radius (np.ndarray): Of the Gaussian blur, the standard deviation, in pixels of the view.
        grayscale (np.ndarray): Whether the view becomes gray. (N, V), bool.
        solarize (np.ndarray): Whether the view is solarized. (N, V), bool.
    """

    top: np.ndarray
    left: np.ndarray
    height: np.ndarray
    width: np.ndarray
    flip: np.ndarray
    order: np.ndarray
    brightness: np.ndarray
    contrast: np.ndarray
    saturation: np.ndarray
    hue: np.ndarray
    radius: np.ndarray
    grayscale: np.ndarray
    solarize: np.ndarray

    def scaled(self, scale: tuple[float, float], size: tuple[int, int]) -> ViewParams:
        """Move the boxes to another resolution of the same images.

        Args:
            scale (tuple[float, float]): New height / old height, new width / old width.
            size (tuple[int, int]): The new (height, width), of all images.

        Returns:
            ViewParams: With boxes of whole pixels, of at least one, inside the images.
        """
        boxes = []
        for start, length, factor, end in (
            (self.top, self.height, scale[0], size[0]),
            (self.left, self.width, scale[1], size[1]),
        ):
            first = np.rint(start * factor).astype(np.int64).clip(0, end - 1)
            last = np.rint((start + length) * factor).astype(np.int64).clip(first + 1, end)
            boxes.append((first, last - first))
        (top, height), (left, width) = boxes
        return self._replace(top=top, left=left, height=height, width=width)


class ViewSampler:
    """Draw the parameters of views, all of them at once.

    They are distributed as those of torchvision's ``RandomResizedCrop`` (ten tries, then a central
    box), ``RandomHorizontalFlip``, ``ColorJitter`` (in random order) in ``RandomApply``,
    ``RandomGrayscale`` and ``RandomSolarize``, and of a Gaussian blur whose radius is uniform.

    Args:
        groups (Sequence[ViewGroup]): The groups; their views come in this order.

    Example:
        >>> sampler = ViewSampler([ViewGroup(size=32, scale=(0.5, 1.0), num=2)])
        >>> params = sampler.draw([(40, 50)], torch.Generator().manual_seed(0))
        >>> params.top.shape, params.order.shape
        ((1, 2), (1, 2, 4))
    """

    def __init__(self, groups: Sequence[ViewGroup]) -> None:
        self.views = [group for group in groups for _ in range(group.num)]
        # All of shape (..., V), or (..., 1, V) where images come before the views.
        self._scale = _low_and_span([view.scale for view in self.views])
        self._ratio = np.array([view.ratio for view in self.views]).T
        self._half_log_ratio = _low_and_span(np.log(self._ratio.T) / 2)
        jitter = np.array([view.color_jitter for view in self.views]).T[:, None]  # (4, 1, V)
        low = np.concatenate((np.maximum(1 - jitter[:HUE], 0), -jitter[HUE:]))
        self._jitter = low, np.concatenate((1 + jitter[:HUE], jitter[HUE:])) - low
        self._radius = _low_and_span([view.blur_radius for view in self.views])
        names = ('flip', 'color_jitter_prob', 'grayscale', 'blur', 'solarize')
        self._probs = np.array([[[getattr(view, name) for view in self.views]] for name in names])

    def draw(self, sizes: Sequence[Sequence[int]], generator: torch.Generator) -> ViewParams:
        """Draw the parameters of every view of several images.

        How many random numbers are taken depends on the number of images and views alone, so that
        no image's outcome shifts what the next one gets.

        Args:
            sizes (Sequence[tuple[int, int]]): (height, width) of each of N images, upright, in pixels.
            generator (torch.Generator): On the CPU.

        Returns:
            ViewParams: Of N images and V views.
        """
        shape = (NUM_DRAWS, len(sizes), len(self.views))
        drawn = torch.rand(shape, generator=generator, dtype=torch.float64).numpy()
        shares, ratios, places, chances, factors, (turn, radius) = (drawn[part] for part in _PARTS)
        start, extent = self._boxes(sizes, shares, ratios, places)
        flip, jittered, grayscale, blurred, solarize = chances < self._probs
        low, span = self._jitter
        factors = np.where(jittered, low + span * factors, NEUTRAL)
        low, span = self._radius
        return ViewParams(
            *start,
            *extent,
            flip,
            ORDERS[(turn * len(ORDERS)).astype(np.int64)],
            *factors,
            radius=(low + span * radius) * blurred,
            grayscale=grayscale,
            solarize=solarize,
        )

    def _boxes(
        self,
        sizes: Sequence[Sequence[int]],
        shares: np.ndarray,
        ratios: np.ndarray,
        places: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Boxes of a drawn area and ratio, at a drawn place: (top, left) and (height, width)."""
        size = np.array(sizes, dtype=np.int64).T[..., None]  # (2, N, 1)
        low, span = self._scale
        side = np.sqrt((low + span * shares) * (size[0] * size[1]))  # (tries, N, V)
        low, span = self._half_log_ratio
        stretch = np.exp(low + span * ratios)
        extents = np.rint((side / stretch, side * stretch)).astype(np.int64)  # (2, tries, N, V)
        fits = ((extents <= size[:, None]) & (extents >= 1)).all(axis=0)
        first = fits.argmax(axis=0)
        image, view = np.arange(len(sizes))[:, None], np.arange(len(self.views))
        extent = extents[:, first, image, view]  # (2, N, V)
        start = (places * (size - extent + 1)).astype(np.int64)
        found = fits[first, image, view]
        if not found.all():
            central = self._central_boxes(size)
            start, extent = (
                np.where(found, *pair) for pair in zip((start, extent), central, strict=True)
            )
        return start, extent

    def _central_boxes(self, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The largest boxes of an allowed ratio: what RandomResizedCrop falls back on."""
        rows, columns = size
        least, most = self._ratio
        ratio = columns / rows
        height = np.where(ratio < least, np.rint(columns / least), rows)
        width = np.where(ratio > most, np.rint(rows * most), columns)
        extent = np.stack((height, width)).astype(np.int64).clip(1, size)
        return (size - extent) // 2, extent


def _low_and_span(ranges: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.array(ranges, dtype=np.float64).T
    return low, high - low
