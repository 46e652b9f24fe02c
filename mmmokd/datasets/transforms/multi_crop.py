# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform

from mmmokd.registry import TRANSFORMS
from mmmokd.structures.view_group import ViewGroup
from mmmokd.structures.view_params import ViewParams, ViewSampler
from mmmokd.utils.errors import ConfigError, DataError

from ..worker_generator import WorkerGenerator
from .pixels import choose_reduction
from .view_pixels import ViewStep, make_view, to_planes

# The published recipe: two global views that differ in blur and solarization, eight local ones.
PAPER_GROUPS = (
    ViewGroup(size=224, scale=(0.25, 1.0), blur=1.0),
    ViewGroup(size=224, scale=(0.25, 1.0), blur=0.1, solarize=0.2),
    ViewGroup(size=96, scale=(0.05, 0.25), num=8),
)
PLAN = 'multi_crop_plan'
DRAW = 'view_draw'
STREAM = 0x64726177  # sets the random numbers of fixed draws apart from others of the same seed


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
        num_draws (int, optional): Number of draws of views that each image has: an epoch takes one
            after the other, and they are the same in every run, so that features of them can be kept
            (``tools/cache_features.py``). The key ``view_draw`` then says which one, and
            ``sample_idx`` is needed. Without epochs one is drawn. Defaults to None: new views each
            time.
        seed (int): Sets apart the draws of ``num_draws``. Defaults to 0.

    Raises:
        DataError: If there is no group, or a group has an unknown, missing or wrong value.
        ConfigError: If ``num_draws`` or ``seed`` is not a whole number in range.

    Example:
        >>> crop = MultiCrop(groups=[dict(num=2, size=32, scale=(0.5, 1.0)),
        ...                          dict(num=4, size=16, scale=(0.1, 0.5))])
        >>> views = crop(dict(img=np.zeros((40, 50, 3), np.uint8)))['img']
        >>> [view.shape for view in views][1:3]
        [(32, 32, 3), (16, 16, 3)]
    """

    def __init__(
        self,
        groups: Sequence[dict | ViewGroup] | None = None,
        num_draws: int | None = None,
        seed: int = 0,
    ) -> None:
        for name, value, least in (('num_draws', num_draws, 1), ('seed', seed, 0)):
            if value is not None and (type(value) is not int or value < least):
                raise ConfigError(
                    f'{name} of MultiCrop must be a whole number of at least {least}, got {value!r}'
                )
        self.num_draws = num_draws
        self.seed = seed
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
            int: 1, 2, 4 or 8, by which the image's height and width may be divided: every crop still
            is twice as large as its view, in each direction.
        """
        params = self._draw(results, size)
        results[PLAN] = params, size
        rooms = np.minimum(params.height / self._heights, params.width / self._widths)
        return choose_reduction(rooms.min())

    def _take_params(self, results: dict, size: tuple[int, int]) -> ViewParams:
        if PLAN not in results:
            return self._draw(results, size)
        params, (height, width) = results.pop(PLAN)
        if (height, width) == size:
            return params
        return params.scaled((size[0] / height, size[1] / width), size)

    def _draw(self, results: dict, size: tuple[int, int]) -> ViewParams:
        if self.num_draws is None:
            return self.sampler.draw([size], self.generator.get())
        epoch = self.generator.epoch
        if epoch is None:  # of a loop that counts iterations
            epoch = int(torch.randint(self.num_draws, (), generator=self.generator.get()))
        results[DRAW] = epoch % self.num_draws
        if 'sample_idx' not in results:
            raise DataError(
                'MultiCrop with num_draws needs sample_idx, as datasets of mmengine give it, but got '
                f'{sorted(map(str, results))}'
            )
        return self.sampler.draw([size], self.fixed_generator(results['sample_idx'], results[DRAW]))

    def fixed_generator(self, index: int, draw: int) -> torch.Generator:
        """The random numbers of one of the draws of ``num_draws``.

        Args:
            index (int): Number of the image in its dataset.
            draw (int): Number of the draw.

        Returns:
            torch.Generator: On the CPU, new.
        """
        key = np.random.SeedSequence([STREAM, self.seed, index, draw])
        return torch.Generator().manual_seed(int(key.generate_state(1, np.uint64)[0]))

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
        draws = '' if self.num_draws is None else f', num_draws={self.num_draws}, seed={self.seed}'
        return f'{self.__class__.__name__}(groups=[{groups}\n]{draws})'
