# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The plain form of MultiCrop's views, by torchvision's transforms on Pillow images.

As DINO and MOKD have it. What is faster is measured, and tested, against it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from PIL import Image, ImageFilter
from torchvision import transforms as tv
from torchvision.transforms import functional

if TYPE_CHECKING:
    from mmmokd.datasets.transforms.view_pixels import ViewStep
    from mmmokd.structures.view_group import ViewGroup

SOLARIZE_THRESHOLD = 128


class RandomPILBlur:
    """Blur by Pillow, with a radius drawn for each image.

    Args:
        prob (float): Probability of blurring.
        radius (tuple[float, float]): Range of the radius (standard deviation, in pixels).
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
        applied, position = torch.rand(2).tolist()
        if applied >= self.prob:
            return img
        low, high = self.radius
        return img.filter(ImageFilter.GaussianBlur(low + (high - low) * position))


def plain_view(group: 'ViewGroup') -> Callable[[Image.Image], Image.Image]:
    """Build the random augmentation of one group; steps that would never act are left out.

    Args:
        group (ViewGroup): The group.

    Returns:
        Callable: From an RGB image of Pillow to a view; draws from torch's global generator.
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


def plain_view_of(img: Image.Image, group: 'ViewGroup', step: 'ViewStep') -> Image.Image:
    """Make the view of given parameters, step by step.

    Args:
        img (PIL.Image.Image): RGB.
        group (ViewGroup): Size and interpolation.
        step (ViewStep): What was drawn.

    Returns:
        PIL.Image.Image: The view, RGB.
    """
    mode = tv.InterpolationMode(group.interpolation)
    box = step.top, step.left, step.height, step.width
    view = functional.resized_crop(img, *box, list(group.size), mode)
    if step.flip:
        view = functional.hflip(view)
    adjust = (
        (functional.adjust_brightness, step.brightness),
        (functional.adjust_contrast, step.contrast),
        (functional.adjust_saturation, step.saturation),
        (functional.adjust_hue, step.hue),
    )
    for kind in step.order:
        change, amount = adjust[kind]
        if amount != (0 if change is functional.adjust_hue else 1):
            view = change(view, amount)
    if step.grayscale:
        view = functional.rgb_to_grayscale(view, num_output_channels=3)
    if step.radius:
        view = view.filter(ImageFilter.GaussianBlur(step.radius))
    return functional.solarize(view, SOLARIZE_THRESHOLD) if step.solarize else view
