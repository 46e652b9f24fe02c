# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Sequence

import cv2
import numpy as np
from mmcv.transforms import BaseTransform

from mmmokd.registry import TRANSFORMS
from mmmokd.structures.view_group import ViewGroup
from mmmokd.structures.view_params import ViewParams, ViewSampler
from mmmokd.utils.errors import DataError

from ..worker_generator import WorkerGenerator
from .view_pixels import ViewStep, make_view, to_planes

# The published recipe: two global views that differ in blur and solarization, eight local ones.
PAPER_GROUPS = (
    ViewGroup(size=224, scale=(0.25, 1.0), blur=1.0),
    ViewGroup(size=224, scale=(0.25, 1.0), blur=0.1, solarize=0.2),
    ViewGroup(size=96, scale=(0.05, 0.25), num=8),
)
# An image decoded at a reduced scale still has so many pixels per pixel of each view, in each
# direction: what Pillow's thumbnail() takes for good.
REDUCING_GAP = 2
PLAN = 'multi_crop_plan'


@TRANSFORMS.register_module()
class MultiCrop(BaseTransform):
    """Several random views of one image, in groups, as multi-crop training takes them.

    Each view is: random resized crop, horizontal flip, color jitter, grayscale, Gaussian blur,
    solarization (threshold 128), on 8-bit RGB, as in `DINO <https://arxiv.org/abs/2104.14294>`_ and
    `MOKD <https://arxiv.org/abs/2304.06461>`_. Put the groups of global views first. What is drawn
    is distributed as by torchvision; the pixels are those of torchvision's transforms on Pillow
    images within a level on average, at several times their speed.

    The random numbers are its own (see :class:`~mmmokd.datasets.WorkerGenerator`): they differ per
    worker, rank and epoch, follow from the run's seed, and leave the global generators as they
    were. ``DataHealthHook`` sets the epoch.

    **Required Keys:** img (np.ndarray): (H, W, 3), (H, W) or (H, W, 1), the latter two gray, uint8;
    channel_order (str): ``'rgb'`` or ``'bgr'``, which it is without, as mmcv's loaders give it.

    **Modified Keys:** img (List[np.ndarray]): the views in the order of the groups, each
    (height, width, 3), uint8, in the order of the image; their memory lies plane by plane, so that
    ``PackInputs`` copies nothing. All other keys stay, for ``PackInputs``.

    Args:
        groups (Sequence[dict | ViewGroup], optional): Groups of views; a dict has what
            :class:`~mmmokd.structures.ViewGroup` takes. Defaults to None, the paper's 2 + 8.

    Raises:
        DataError: If there is no group, or a group has an unknown, missing or wrong value.

    Example:
        >>> crop = MultiCrop(groups=[dict(num=2, size=32, scale=(0.5, 1.0)),
        ...                          dict(num=4, size=16, scale=(0.1, 0.5))])
        >>> views = crop(dict(img=np.zeros((40, 50, 3), np.uint8)))['img']
        >>> [view.shape for view in views][1:3]
        [(32, 32, 3), (16, 16, 3)]
    """

    def __init__(self, groups: Sequence[dict | ViewGroup] | None = None) -> None:
        self.groups = ViewGroup.from_configs(PAPER_GROUPS if groups is None else groups)
        self.sampler = ViewSampler(self.groups)
        self._heights, self._widths = np.array([view.size for view in self.sampler.views]).T
        self.generator = WorkerGenerator()

    @property
    def num_views(self) -> int:
        """int: Number of views that come from one image."""
        return len(self.sampler.views)

    def set_epoch(self, epoch: int, stream: int | None = None) -> None:
        """Start new random numbers in all workers.

        Args:
            epoch (int): Number of the epoch, counted from 0.
            stream (int, optional): Sets apart several transforms of one run. Defaults to None.
        """
        self.generator.set_epoch(epoch, stream)

    def transform(self, results: dict) -> dict:
        """Cut the views.

        Args:
            results (dict): With 'img'.

        Returns:
            dict: The same dict with the list of views in 'img'.

        Raises:
            DataError: If 'img' is not an 8-bit image with one or three channels.
        """
        order = results.get('channel_order', 'bgr')
        img = self._to_rgb(results['img'], order)
        params = self._take_params(results, img.shape[:2])
        steps = map(ViewStep, *(field[0].tolist() for field in params))
        results['img'] = [
            to_planes(make_view(img, group, step), reverse=order == 'bgr')
            for group, step in zip(self.sampler.views, steps, strict=True)
        ]
        return results

    def plan(self, results: dict, size: tuple[int, int]) -> int:
        """Draw the views of an image before it is decoded.

        Args:
            results (dict): Of the image; the plan is added for :meth:`transform`.
            size (tuple[int, int]): The image's (height, width), upright, in pixels.

        Returns:
            int: 1, 2, 4 or 8: the image may be decoded at this part of its height and width, and
            every crop still is ``REDUCING_GAP`` times as large as its view.
        """
        params = self.sampler.draw([size], self.generator.get())
        results[PLAN] = params, size
        rooms = np.minimum(params.height // self._heights, params.width // self._widths)
        room = rooms.min() // REDUCING_GAP
        return next((factor for factor in (8, 4, 2) if factor <= room), 1)

    def _take_params(self, results: dict, size: tuple[int, int]) -> ViewParams:
        if PLAN not in results:
            return self.sampler.draw([size], self.generator.get())
        params, (height, width) = results.pop(PLAN)
        if (height, width) == size:
            return params
        return params.scaled((size[0] / height, size[1] / width), size)

    @staticmethod
    def _to_rgb(img: np.ndarray, order: str) -> np.ndarray:
        """RGB of shape (H, W, 3), or gray of shape (H, W)."""
        shape, dtype = getattr(img, 'shape', None), getattr(img, 'dtype', type(img))
        if dtype == np.uint8 and 0 not in shape:
            if len(shape) == 2 or shape[2:] == (1,):
                return img.reshape(shape[:2])
            if shape[2:] == (3,):
                return img if order == 'rgb' else cv2.cvtColor(img, cv2.COLOR_BGR2RGB)
        raise DataError(
            "MultiCrop needs results['img'] as a uint8 array of shape (H, W, 3), or (H, W), gray, "
            f'but got shape {shape}, type {dtype}.'
        )

    def __repr__(self) -> str:
        groups = ''.join(f'\n    {group},' for group in self.groups)
        return f'{self.__class__.__name__}(groups=[{groups}\n])'
