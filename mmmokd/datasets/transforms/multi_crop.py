# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from PIL import Image, ImageFilter
from torchvision import transforms as tv

from mmmokd.registry import TRANSFORMS
from mmmokd.structures.view_group import ViewGroup
from mmmokd.utils.errors import DataError

from ..worker_generator import WorkerGenerator

# The published recipe: two global views that differ in blur and solarization, eight local ones.
PAPER_GROUPS = (
    ViewGroup(size=224, scale=(0.25, 1.0), blur=1.0),
    ViewGroup(size=224, scale=(0.25, 1.0), blur=0.1, solarize=0.2),
    ViewGroup(size=96, scale=(0.05, 0.25), num=8),
)
SOLARIZE_THRESHOLD = 128


class RandomPILBlur:
    """Pillow's Gaussian blur with a radius drawn for each image.

    Args:
        prob (float): Probability of blurring.
        radius (Tuple[float, float]): Range of the radius (standard deviation, in pixels).
    """

    def __init__(self, prob: float, radius: tuple[float, float]) -> None:
        self.prob = prob
        self.radius = radius

    def __call__(self, img: Image.Image) -> Image.Image:
        """Blur an image, or leave it.

        Args:
            img (PIL.Image.Image): An image.

        Returns:
            PIL.Image.Image: The image, of the same size and mode.
        """
        # The order of the draws does not depend on their outcome.
        applied, position = torch.rand(2).tolist()
        if applied >= self.prob:
            return img
        low, high = self.radius
        return img.filter(ImageFilter.GaussianBlur(low + (high - low) * position))


def build_view(group: ViewGroup) -> tv.Compose:
    """The augmentation of one group of views; steps that would never act are left out.

    Args:
        group (ViewGroup): The group.

    Returns:
        torchvision.transforms.Compose: From an RGB PIL image to an RGB PIL image.
    """
    mode = tv.InterpolationMode(group.interpolation)
    steps = [tv.RandomResizedCrop(group.size, group.scale, group.ratio, mode)]
    if group.flip:
        steps.append(tv.RandomHorizontalFlip(group.flip))
    if group.color_jitter_prob and any(group.color_jitter):
        jitter = tv.ColorJitter(*group.color_jitter)
        steps.append(tv.RandomApply([jitter], group.color_jitter_prob))
    if group.grayscale:
        steps.append(tv.RandomGrayscale(group.grayscale))
    if group.blur:
        steps.append(RandomPILBlur(group.blur, group.blur_radius))
    if group.solarize:
        steps.append(tv.RandomSolarize(SOLARIZE_THRESHOLD, group.solarize))
    return tv.Compose(steps)


@TRANSFORMS.register_module()
class MultiCrop(BaseTransform):
    """Several random views of one image, in groups, as multi-crop training takes them.

    Each view is: random resized crop, horizontal flip, color jitter, grayscale, Gaussian blur,
    solarization (threshold 128), all by torchvision and Pillow on 8-bit RGB, as in `DINO
    <https://arxiv.org/abs/2104.14294>`_ and `MOKD <https://arxiv.org/abs/2304.06461>`_. Put the
    groups of global views first.

    The random numbers are its own (see :class:`~mmmokd.datasets.WorkerGenerator`): they differ per
    worker, rank and epoch, follow from the run's seed, and leave the global generators as they
    were. ``DataHealthHook`` sets the epoch.

    **Required Keys:** img (np.ndarray): (H, W, 3), (H, W) or (H, W, 1), the latter two gray, uint8;
    channel_order (str): ``'rgb'`` or ``'bgr'``, which it is without, as mmcv's loaders give it.

    **Modified Keys:** img (List[np.ndarray]): the views in the order of the groups, each
    (height, width, 3), uint8, in the order of the image. All other keys stay, for ``PackInputs``.

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
        self.views = [view for group in self.groups for view in [build_view(group)] * group.num]
        self.generator = WorkerGenerator()

    @property
    def num_views(self) -> int:
        """int: Number of views that come from one image."""
        return len(self.views)

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
        img = self._to_pil(results['img'], order)
        seed = torch.randint(2**63 - 1, (), generator=self.generator.get()).item()
        state = torch.get_rng_state()
        try:
            # torch.manual_seed would seed the GPUs' generators too, which are the user's.
            torch.default_generator.manual_seed(seed)
            results['img'] = [self._to_array(view(img), order) for view in self.views]
        finally:
            torch.set_rng_state(state)
        return results

    @staticmethod
    def _to_pil(img: np.ndarray, order: str) -> Image.Image:
        shape, dtype = getattr(img, 'shape', None), getattr(img, 'dtype', type(img))
        if dtype == np.uint8 and 0 not in shape:
            if len(shape) == 2 or shape[2:] == (1,):
                return Image.fromarray(cv2.cvtColor(img, cv2.COLOR_GRAY2RGB))
            if shape[2:] == (3,):
                rgb = img if order == 'rgb' else cv2.cvtColor(img, cv2.COLOR_BGR2RGB)
                return Image.fromarray(rgb)
        raise DataError(
            "MultiCrop needs results['img'] as a uint8 array of shape (H, W, 3), or (H, W), gray, "
            f'but got shape {shape}, type {dtype}.'
        )

    @staticmethod
    def _to_array(view: Image.Image, order: str) -> np.ndarray:
        if order == 'rgb':
            return np.array(view)
        return cv2.cvtColor(np.asarray(view), cv2.COLOR_RGB2BGR)

    def __repr__(self) -> str:
        groups = ''.join(f'\n    {group},' for group in self.groups)
        return f'{self.__class__.__name__}(groups=[{groups}\n])'
