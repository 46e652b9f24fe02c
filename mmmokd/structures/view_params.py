# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import NamedTuple

import numpy as np
import torch

from .view_group import ViewGroup

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
# So many boxes are drawn for a view; if none fits into the image, the box is a central one.
NUM_TRIES = 10
ORDERS = np.array(list(permutations(range(4))), dtype=np.int8)  # (24, 4)


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
        self._scale = self._low_and_span([group.scale for group in self.views])
        self._ratio = np.array([group.ratio for group in self.views]).T  # (2, V)
        self._log_ratio = self._low_and_span(np.log(self._ratio.T))
        jitter = np.array([group.color_jitter for group in self.views])  # (V, 4)
        factors, hues = jitter[:, :HUE], jitter[:, HUE:]
        low = np.concatenate((np.maximum(1 - factors, 0), -hues), axis=1)
        self._jitter = low, np.concatenate((1 + factors, hues), axis=1) - low
        self._radius = tuple(
            bound[:, 0] for bound in self._low_and_span([group.blur_radius for group in self.views])
        )
        names = ('flip', 'color_jitter_prob', 'grayscale', 'blur', 'solarize')
        self._probs = np.array([[getattr(group, name) for name in names] for group in self.views])

    @staticmethod
    def _low_and_span(ranges: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
        low, high = np.array(ranges, dtype=np.float64).T[:, :, None]  # each (V, 1)
        return low, high - low

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
        num_draws = 2 * NUM_TRIES + 2 + len(self._probs[0]) + 6
        shape = (len(sizes), len(self.views), num_draws)
        drawn = torch.rand(shape, generator=generator, dtype=torch.float64).numpy()
        tries, rest = drawn[..., : 2 * NUM_TRIES], drawn[..., 2 * NUM_TRIES :]
        top, left, height, width = self._boxes(sizes, tries, rest[..., 0], rest[..., 1])
        flip, jittered, grayscale, blurred, solarize = np.moveaxis(
            rest[..., 2:7] < self._probs, -1, 0
        )
        low, span = self._jitter
        factors = np.where(jittered[..., None], low + span * rest[..., 7:11], (1, 1, 1, 0))
        low, span = self._radius
        return ViewParams(
            top,
            left,
            height,
            width,
            flip,
            ORDERS[(rest[..., 11] * len(ORDERS)).astype(np.int64)],
            *np.moveaxis(factors, -1, 0),
            radius=(low + span * rest[..., 12]) * blurred,
            grayscale=grayscale,
            solarize=solarize,
        )

    def _boxes(
        self,
        sizes: Sequence[Sequence[int]],
        tries: np.ndarray,
        down: np.ndarray,
        across: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Boxes of a drawn area and ratio, at a drawn place: top, left, height, width."""
        size = np.asarray(sizes, dtype=np.int64)[:, None]  # (N, 1, 2)
        rows, columns = size[..., 0], size[..., 1]
        low, span = self._scale
        side = np.sqrt((low + span * tries[..., :NUM_TRIES]) * (rows * columns)[..., None])
        low, span = self._log_ratio
        stretch = np.exp(0.5 * (low + span * tries[..., NUM_TRIES:]))
        widths, heights = np.rint(side * stretch), np.rint(side / stretch)  # (N, V, tries)
        fits = (widths <= columns[..., None]) & (heights <= rows[..., None])
        fits &= (widths >= 1) & (heights >= 1)
        first = fits.argmax(-1)
        image, view = np.ogrid[: len(first), : first.shape[1]]
        height = heights[image, view, first].astype(np.int64)
        width = widths[image, view, first].astype(np.int64)
        top = (down * (rows - height + 1)).astype(np.int64)
        left = (across * (columns - width + 1)).astype(np.int64)
        found = fits[image, view, first]
        if not found.all():
            central = self._central_boxes(rows, columns)
            pairs = zip((top, left, height, width), central, strict=True)
            top, left, height, width = (np.where(found, box, other) for box, other in pairs)
        return top, left, height, width

    def _central_boxes(
        self, rows: np.ndarray, columns: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The largest boxes of an allowed ratio: what RandomResizedCrop falls back on."""
        least, most = self._ratio
        ratio = columns / rows
        height = np.where(ratio < least, np.rint(columns / least), rows).astype(np.int64)
        width = np.where(ratio > most, np.rint(rows * most), columns).astype(np.int64)
        height, width = height.clip(1, rows), width.clip(1, columns)
        return (rows - height) // 2, (columns - width) // 2, height, width
