# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Steps from an 8-bit image to one view of it, by torch and OpenCV, after Pillow's arithmetic.

torch's antialiased resize and OpenCV's filters take a fraction of Pillow's time. Pillow rounds down
after every step of color, and so do these.
"""

from collections.abc import Sequence
from math import floor, sqrt, trunc
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from mmmokd.structures.view_group import ViewGroup
from mmmokd.structures.view_params import BRIGHTNESS, CONTRAST, HUE, SATURATION

SOLARIZE_THRESHOLD = 128
# Modes of torch that give what Pillow gives, within a level.
ANTIALIASED = ('bilinear', 'bicubic')
LEVELS = np.arange(256, dtype=np.float64)
SOLARIZED = np.where(LEVELS < SOLARIZE_THRESHOLD, LEVELS, 255 - LEVELS).astype(np.uint8)
# A step of color is same * x + luma * gray(x) + shift for every channel, gray by BT.601's weights.
SAME = np.eye(3, 4, dtype=np.float32)
LUMA = np.array([[0.299, 0.587, 0.114, 0]] * 3, dtype=np.float32)
SHIFT = np.array([[0, 0, 0, 1]] * 3, dtype=np.float32)
FIRST_SHIFT = SHIFT * np.array([[1], [0], [0]], dtype=np.float32)
HUES = 255  # torchvision turns the hue of Pillow's images by whole parts of these
# OpenCV multiplies by a matrix faster than by a diagonal; far below what 8 bits hold.
TINY = 1e-6
TRUNCATION = -0.5
BLUR_PASSES = 3


class ViewStep(NamedTuple):
    """One view's part of :class:`~mmmokd.structures.ViewParams`, as plain numbers."""

    top: int
    left: int
    height: int
    width: int
    flip: bool
    order: Sequence[int]
    brightness: float
    contrast: float
    saturation: float
    hue: float
    radius: float
    grayscale: bool
    solarize: bool


def make_view(img: np.ndarray, group: ViewGroup, step: ViewStep) -> np.ndarray:
    """Cut one view of an image.

    Args:
        img (np.ndarray): Shape (H, W, 3), RGB, or (H, W), gray; uint8.
        group (ViewGroup): Its size and interpolation.
        step (ViewStep): What was drawn for it.

    Returns:
        np.ndarray: Shape (height, width, 3), or (height, width) if it is gray; uint8.
    """
    view = cut_box(img, step.top, step.left, step.height, step.width, step.flip)
    view = resize(view, group.size, group.interpolation)
    view = jitter_gray(view, step) if view.ndim == 2 else jitter_color(view, step)
    if step.grayscale and view.ndim == 3:
        view = cv2.cvtColor(view, cv2.COLOR_RGB2GRAY)
    if step.radius > 0:
        view = blur(view, step.radius)
    return cv2.LUT(view, SOLARIZED) if step.solarize else view


def cut_box(
    img: np.ndarray, top: int, left: int, height: int, width: int, flip: bool = False
) -> np.ndarray:
    """Copy a box of an image.

    Args:
        img (np.ndarray): Shape (H, W, ...).
        top (int): Its first row.
        left (int): Its first column.
        height (int): Its number of rows.
        width (int): Its number of columns.
        flip (bool): Whether it is mirrored left to right. Defaults to False.

    Returns:
        np.ndarray: Shape (height, width, ...), contiguous.
    """
    box = img[top : top + height, left : left + width]
    return cv2.flip(box, 1) if flip else box.copy()  # the image may be read-only


def resize(img: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """Resize with antialiasing, as Pillow does, within a level for bilinear and bicubic.

    Args:
        img (np.ndarray): Shape (H, W, 3) or (H, W), uint8, contiguous.
        size (tuple[int, int]): (height, width).
        interpolation (str): One of those of :class:`~mmmokd.structures.ViewGroup`.

    Returns:
        np.ndarray: Shape (height, width, 3) or (height, width), uint8.
    """
    if img.shape[:2] == size:
        return img
    if interpolation not in ANTIALIASED:
        resample = Image.Resampling[interpolation.upper()]
        return np.asarray(Image.fromarray(img).resize(size[::-1], resample))
    # The batch first: in another order torch does not see that channels are last, and copies.
    batch = torch.from_numpy(img)[None]
    batch = batch[:, None] if img.ndim == 2 else batch.permute(0, 3, 1, 2)
    resized = interpolate(batch, size, mode=interpolation, antialias=True)[0]
    if img.ndim == 2:
        return resized[0].numpy()
    return np.ascontiguousarray(resized.permute(1, 2, 0).numpy())


def jitter_color(img: np.ndarray, step: ViewStep) -> np.ndarray:
    """Change brightness, contrast, saturation and hue, in the drawn order.

    The first three are linear: neighbors become one matrix wherever the values between them stay
    within 8 bits. Where they may leave them (a factor above 1), they are clipped, as by Pillow.

    Args:
        img (np.ndarray): Shape (H, W, 3), RGB, uint8.
        step (ViewStep): Factors, hue and order.

    Returns:
        np.ndarray: The same shape, uint8.
    """
    pending = _Linear(img)
    for kind in step.order:
        if kind == HUE:
            if step.hue:
                pending = _Linear(shift_hue(pending.apply(), step.hue))
        else:
            factor = (step.brightness, step.contrast, step.saturation)[kind]
            if factor != 1:
                pending.add(kind, factor)
    return pending.apply()


class _Linear:
    """Linear steps of color that wait to be applied to an image at once."""

    def __init__(self, img: np.ndarray) -> None:
        self.img = img
        self._reset()

    def _reset(self) -> None:
        self.same, self.luma, self.shift = 1.0, 0.0, 0.0
        self.may_clip = self.waits = False

    def add(self, kind: int, factor: float) -> None:
        """Add a step that blends the image with black, its mean, or itself in gray."""
        if self.may_clip:
            self.apply()
        self.may_clip, self.waits = factor > 1, True
        other = 0
        if kind == CONTRAST:
            gray = cv2.mean(cv2.cvtColor(self.img, cv2.COLOR_RGB2GRAY))[0]
            # No step before this one changes the gray of a pixel but by these.
            other = int((self.same + self.luma) * gray + self.shift + 0.5)
        if kind == SATURATION:
            self.luma += (1 - factor) * self.same
            self.same *= factor
            self.shift += TRUNCATION
        else:
            self.same, self.luma = self.same * factor, self.luma * factor
            self.shift = self.shift * factor + (1 - factor) * other + TRUNCATION

    def apply(self) -> np.ndarray:
        """Apply what waits; also the image from now on."""
        if self.waits:
            matrix = self.same * SAME + (self.luma or TINY) * LUMA + self.shift * SHIFT
            self.img = cv2.transform(self.img, matrix)
            self._reset()
        return self.img


def jitter_gray(img: np.ndarray, step: ViewStep) -> np.ndarray:
    """Change brightness and contrast of a gray image, which has no saturation and no hue.

    Args:
        img (np.ndarray): Shape (H, W), uint8.
        step (ViewStep): Factors and order.

    Returns:
        np.ndarray: The same shape, uint8.
    """
    for kind in step.order:
        if kind == BRIGHTNESS and step.brightness != 1:
            img = cv2.LUT(img, _as_levels(LEVELS * step.brightness))
        elif kind == CONTRAST and step.contrast != 1:
            mean = int(cv2.mean(img)[0] + 0.5)
            img = cv2.LUT(img, _as_levels(mean + step.contrast * (LEVELS - mean)))
    return img


def _as_levels(values: np.ndarray) -> np.ndarray:
    return values.clip(0, 255).astype(np.uint8)


def shift_hue(img: np.ndarray, hue: float) -> np.ndarray:
    """Turn the hue, with value and saturation as they are.

    Args:
        img (np.ndarray): Shape (H, W, 3), RGB, uint8.
        hue (float): Share of the whole turn.

    Returns:
        np.ndarray: The same shape, uint8.
    """
    # In floats: OpenCV is faster so, and nothing is rounded on the way. Negative angles it takes not.
    hsv = cv2.cvtColor(img.astype(np.float32), cv2.COLOR_RGB2HSV)
    turn = trunc(hue * HUES) / HUES % 1
    hsv = cv2.transform(hsv, SAME + 360 * turn * FIRST_SHIFT)
    return cv2.convertScaleAbs(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def blur_kernel(radius: float) -> np.ndarray:
    """Pillow's Gaussian in one dimension: three boxes of fractional length, of the same variance.

    See `Theoretical foundations of Gaussian convolution by extended box filtering
    <https://doi.org/10.1007/978-3-642-24785-9_38>`_.

    Args:
        radius (float): Standard deviation, in pixels, above 0.

    Returns:
        np.ndarray: Weights that add up to 1, an odd number of them, float32.
    """
    variance = radius * radius / BLUR_PASSES
    whole = floor((sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    part /= 6 * (variance - (whole + 1) ** 2)
    box = np.array([part, *[1.0] * (2 * whole + 1), part]) / (2 * (whole + part) + 1)
    return np.convolve(np.convolve(box, box), box).astype(np.float32)


def blur(img: np.ndarray, radius: float) -> np.ndarray:
    """Blur as Pillow's ``GaussianBlur`` does.

    Args:
        img (np.ndarray): Shape (H, W, 3) or (H, W), uint8.
        radius (float): Standard deviation, in pixels, above 0.

    Returns:
        np.ndarray: The same shape, uint8.
    """
    kernel = blur_kernel(radius)
    return cv2.sepFilter2D(img, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE)


def to_planes(view: np.ndarray, reverse: bool = False) -> np.ndarray:
    """Bring a view to three channels whose memory lies plane by plane, as models take it.

    Args:
        view (np.ndarray): Shape (H, W, 3) or (H, W), uint8.
        reverse (bool): Whether the channels change places, RGB to BGR. Defaults to False.

    Returns:
        np.ndarray: Shape (H, W, 3); ``transpose(2, 0, 1)`` of it is contiguous.
    """
    planes = np.empty((3, *view.shape[:2]), np.uint8)
    if view.ndim == 2:
        planes[:] = view
    else:
        cv2.split(view, list(planes[::-1] if reverse else planes))
    return planes.transpose(1, 2, 0)
