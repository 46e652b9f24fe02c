# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Sequence

import cv2
import numpy as np
from mmcv.transforms import BaseTransform

from mmmokd.registry import TRANSFORMS
from mmmokd.structures import ViewGroup
from mmmokd.utils.errors import ConfigError, DataError

MULTIPLE = 32
LONG_SIDE = (4 / 3) ** 0.5  # of a photograph of area 1


@TRANSFORMS.register_module()
class FitCanvas(BaseTransform):
    """Put an image on a canvas of a fixed size, for views that the device makes.

    Images on equal canvases make a batch by being stacked, and take as much memory whatever their
    size. The whole image stays, so that every crop is possible and its share of the area is of the
    image as it was. One that is larger than the canvas is reduced to fit, with its proportions; what
    is left of the canvas is black, and no view shows it. The price: a crop of an image that was reduced
    is filtered twice and, where it is smaller than its view, loses sharpness. See
    :func:`canvas_size` for what suits the views.

    **Required Keys:** img (np.ndarray): (H, W, 3), uint8.

    **Modified Keys:** img: (height, width, 3); img_shape (tuple[int, int]): the part of the canvas
    that is image, from the upper left corner.

    **Added Keys:** ori_shape (tuple[int, int]): (H, W), unless a loader has said it.

    Args:
        size (int | tuple[int, int]): Side, or (height, width), of the canvas, in pixels.

    Raises:
        ConfigError: If ``size`` is not one or two whole numbers above 0.

    Example:
        >>> results = FitCanvas(64)(dict(img=np.zeros((100, 200, 3), np.uint8)))
        >>> results['img'].shape, results['img_shape'], results['ori_shape']
        ((64, 64, 3), (32, 64), (100, 200))
    """

    def __init__(self, size: int | tuple[int, int]) -> None:
        pair = (size, size) if isinstance(size, int) else size
        whole = isinstance(pair, list | tuple) and len(pair) == 2
        if not whole or not all(isinstance(side, int) and side >= 1 for side in pair):
            raise ConfigError(
                f'size of FitCanvas must be a whole number >= 1, or (height, width), got {size!r}.'
            )
        self.size = tuple(pair)

    def transform(self, results: dict) -> dict:
        """Put the image on the canvas.

        Args:
            results (dict): With 'img'.

        Returns:
            dict: The same dict.

        Raises:
            DataError: If 'img' is not an 8-bit image of three channels.
        """
        img = results['img']
        shape, dtype = getattr(img, 'shape', None), getattr(img, 'dtype', type(img))
        if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
            raise DataError(
                "FitCanvas needs results['img'] as a uint8 array of shape (H, W, 3), but got shape "
                f'{shape}, type {dtype}.'
            )
        results.setdefault('ori_shape', shape[:2])
        share = min(1, *(side / given for side, given in zip(self.size, shape, strict=False)))
        height, width = (max(1, round(share * side)) for side in shape[:2])
        if share < 1:
            # The mean of the area that a pixel stands for: quick, and nothing is aliased.
            img = cv2.resize(img, (width, height), interpolation=cv2.INTER_AREA)
        if (height, width) != self.size:
            canvas = np.zeros((*self.size, 3), np.uint8)
            canvas[:height, :width] = img
            img = canvas
        results['img'], results['img_shape'] = img, (height, width)
        return results

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(size={self.size})'


def canvas_size(groups: Sequence[ViewGroup]) -> int:
    """Choose a canvas on which photographs lose nothing that their views would show.

    A photograph of 4 : 3 on it has as many pixels as the smallest crop of each group needs to be as
    large as its view: 512 for the paper's groups, of images of 224 and 96 pixels.

    Args:
        groups (Sequence[ViewGroup]): The groups of views.

    Returns:
        int: Its side, in pixels.
    """
    areas = [group.size[0] * group.size[1] / group.scale[0] for group in groups]
    return max(MULTIPLE, MULTIPLE * round(LONG_SIDE * max(areas) ** 0.5 / MULTIPLE))
