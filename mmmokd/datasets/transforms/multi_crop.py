# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from PIL import Image, ImageFilter
from torchvision import transforms as tv

from mmmokd.registry import TRANSFORMS
from mmmokd.utils.errors import ConfigError

from ..worker_generator import WorkerGenerator

# The published recipe: two global views that differ in blur and solarisation, eight local ones.
PAPER_GROUPS = (
    dict(num=1, size=224, scale=(0.25, 1.0), blur=1.0),
    dict(num=1, size=224, scale=(0.25, 1.0), blur=0.1, solarize=0.2),
    dict(num=8, size=96, scale=(0.05, 0.25)),
)
GROUP_DEFAULTS = dict(
    num=1,
    ratio=(3 / 4, 4 / 3),
    interpolation='bicubic',
    flip=0.5,
    color_jitter=(0.4, 0.4, 0.2, 0.1),
    color_jitter_prob=0.8,
    grayscale=0.2,
    blur=0.5,
    blur_radius=(0.1, 2.0),
    solarize=0.0,
)
PROBABILITIES = ('flip', 'color_jitter_prob', 'grayscale', 'blur', 'solarize')
INTERPOLATIONS = ('nearest', 'bilinear', 'bicubic', 'box', 'hamming', 'lanczos')
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


def build_view(group: dict[str, Any]) -> tv.Compose:
    """The augmentation of one group of views; steps that would never act are left out.

    Args:
        group (dict): A complete, checked group.

    Returns:
        torchvision.transforms.Compose: From an RGB PIL image to an RGB PIL image.
    """
    mode = tv.InterpolationMode(group['interpolation'])
    steps = [tv.RandomResizedCrop(group['size'], group['scale'], group['ratio'], mode)]
    if group['flip']:
        steps.append(tv.RandomHorizontalFlip(group['flip']))
    if group['color_jitter_prob'] and any(group['color_jitter']):
        jitter = tv.ColorJitter(*group['color_jitter'])
        steps.append(tv.RandomApply([jitter], group['color_jitter_prob']))
    if group['grayscale']:
        steps.append(tv.RandomGrayscale(group['grayscale']))
    if group['blur']:
        steps.append(RandomPILBlur(group['blur'], group['blur_radius']))
    if group['solarize']:
        steps.append(tv.RandomSolarize(SOLARIZE_THRESHOLD, group['solarize']))
    return tv.Compose(steps)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_range(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and len(value) == 2
        and all(map(_is_number, value))
        and value[0] <= value[1]
    )


def complete_group(index: int, group: Any) -> dict[str, Any]:
    """Check a group of views and fill in its defaults.

    Args:
        index (int): Its place in the list, for the error message.
        group (dict): See :class:`MultiCrop`.

    Returns:
        dict: The group with every key.

    Raises:
        ConfigError: If it is not a dict, a key is unknown or missing, or a value is out of range.
    """

    def require(condition: bool, key: str, expected: str) -> None:
        if not condition:
            raise ConfigError(f'groups[{index}]: {key} must be {expected}, got {group[key]!r}.')

    known = ['size', 'scale', *GROUP_DEFAULTS]
    if not isinstance(group, dict):
        raise ConfigError(f'groups[{index}] must be a dict, got {group!r}.')
    unknown = sorted(set(group) - set(known), key=str)
    if unknown:
        raise ConfigError(f'groups[{index}] has the unknown keys {unknown}; known are {known}.')
    missing = [key for key in ('size', 'scale') if key not in group]
    if missing:
        raise ConfigError(f'groups[{index}] lacks {missing}.')
    group = {**GROUP_DEFAULTS, **group}

    for key in ('num', 'size'):
        value = group[key]
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        require(whole and value >= 1, key, 'a whole number >= 1')
    for key in PROBABILITIES:
        value = group[key]
        require(_is_number(value) and 0 <= value <= 1, key, 'a probability in [0, 1]')
    scale, ratio, radius = group['scale'], group['ratio'], group['blur_radius']
    require(_is_range(scale) and 0 < scale[0] and scale[1] <= 1, 'scale', '(low, high) in (0, 1]')
    require(_is_range(ratio) and ratio[0] > 0, 'ratio', '(low, high), positive')
    require(_is_range(radius) and radius[0] >= 0, 'blur_radius', '(low, high), not negative')
    jitter = group['color_jitter']
    require(
        isinstance(jitter, Sequence)
        and len(jitter) == 4
        and all(_is_number(value) and value >= 0 for value in jitter)
        and jitter[3] <= 0.5,
        'color_jitter',
        '(brightness, contrast, saturation, hue), none negative, hue at most 0.5',
    )
    require(group['interpolation'] in INTERPOLATIONS, 'interpolation', f'one of {INTERPOLATIONS}')
    return group


@TRANSFORMS.register_module()
class MultiCrop(BaseTransform):
    """Several random views of one image, in groups, as multi-crop training takes them.

    Each view is: random resized crop, horizontal flip, color jitter, grayscale, Gaussian blur,
    solarisation (threshold 128), all by torchvision and Pillow on 8-bit RGB, as in `DINO
    <https://arxiv.org/abs/2104.14294>`_ and `MOKD <https://arxiv.org/abs/2304.06461>`_. Put the
    groups of global views first.

    The random numbers are its own (see :class:`~mmmokd.datasets.WorkerGenerator`): they differ per
    worker, rank and epoch, follow from the run's seed, and leave the global generators as they
    were. ``DataHealthHook`` sets the epoch.

    **Required Keys:** img (np.ndarray): (H, W, 3) BGR, (H, W) or (H, W, 1) gray, uint8.

    **Modified Keys:** img (List[np.ndarray]): the views in the order of the groups, each
    (size, size, 3), BGR, uint8. All other keys stay, for ``PackInputs``.

    Args:
        groups (Sequence[dict], optional): Groups of views. Defaults to None, the paper's 2 + 8.
            Keys of a group:

            - size (int): Side of the views, in pixels. Required.
            - scale (Tuple[float, float]): Range of the crop's share of the image's area, in
              (0, 1]. Required.
            - num (int): Number of views. Defaults to 1.
            - ratio (Tuple[float, float]): Range of width / height. Defaults to (3/4, 4/3).
            - interpolation (str): 'nearest', 'bilinear', 'bicubic', 'box', 'hamming' or
              'lanczos'. Defaults to 'bicubic'.
            - flip (float): Probability of a horizontal flip. Defaults to 0.5.
            - color_jitter (Tuple[float, float, float, float]): Strength of brightness, contrast,
              saturation and hue. Defaults to (0.4, 0.4, 0.2, 0.1).
            - color_jitter_prob (float): Its probability. Defaults to 0.8.
            - grayscale (float): Probability of grayscale. Defaults to 0.2.
            - blur (float): Probability of Gaussian blur. Defaults to 0.5.
            - blur_radius (Tuple[float, float]): Range of its radius, in pixels, drawn uniformly
              for each view. Defaults to (0.1, 2.0).
            - solarize (float): Probability of solarisation. Defaults to 0.0.

    Raises:
        ConfigError: If there is no group, or a group has an unknown, missing or wrong value.

    Example:
        >>> crop = MultiCrop(groups=[dict(num=2, size=32, scale=(0.5, 1.0)),
        ...                          dict(num=4, size=16, scale=(0.1, 0.5))])
        >>> views = crop(dict(img=np.zeros((40, 50, 3), np.uint8)))['img']
        >>> [view.shape for view in views][1:3]
        [(32, 32, 3), (16, 16, 3)]
    """

    def __init__(self, groups: Sequence[dict] | None = None) -> None:
        groups = PAPER_GROUPS if groups is None else groups
        if not isinstance(groups, Sequence) or len(groups) == 0:
            raise ConfigError(f'groups must be a list of at least one dict, got {groups!r}.')
        self.groups = [complete_group(index, group) for index, group in enumerate(groups)]
        self.views = [view for group in self.groups for view in [build_view(group)] * group['num']]
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
            ConfigError: If 'img' is not an 8-bit image with one or three channels.
        """
        img = self._to_pil(results['img'])
        seed = torch.randint(2**63 - 1, (), generator=self.generator.get()).item()
        state = torch.get_rng_state()
        try:
            # torch.manual_seed would seed the GPUs' generators too, which are the user's.
            torch.default_generator.manual_seed(seed)
            results['img'] = [self._to_bgr(view(img)) for view in self.views]
        finally:
            torch.set_rng_state(state)
        return results

    @staticmethod
    def _to_pil(img: np.ndarray) -> Image.Image:
        shape, dtype = getattr(img, 'shape', None), getattr(img, 'dtype', type(img))
        if dtype == np.uint8 and 0 not in shape:
            if len(shape) == 2 or shape[2:] == (1,):
                return Image.fromarray(cv2.cvtColor(img, cv2.COLOR_GRAY2RGB))
            if shape[2:] == (3,):
                return Image.fromarray(cv2.cvtColor(img, cv2.COLOR_BGR2RGB))
        raise ConfigError(
            "MultiCrop needs results['img'] as a uint8 array of shape (H, W, 3), BGR, or (H, W), "
            f'gray, but got shape {shape}, type {dtype}.'
        )

    @staticmethod
    def _to_bgr(view: Image.Image) -> np.ndarray:
        return cv2.cvtColor(np.asarray(view), cv2.COLOR_RGB2BGR)

    def __repr__(self) -> str:
        groups = ''.join(f'\n    {group},' for group in self.groups)
        return f'{self.__class__.__name__}(groups=[{groups}\n])'
