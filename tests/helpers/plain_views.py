# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Views made one by one, by Pillow and torchvision alone, from given parameters."""

import cv2
import numpy as np
from PIL import Image, ImageFilter
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def photo(height, width, seed=0):
    """Smooth shapes in all colors, with some noise, (H, W, 3), uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(height // 8 + 2, width // 8 + 2, 3))
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    image += 0.15 * rng.normal(size=image.shape)
    return np.uint8(np.clip(128 + 60 * image, 0, 255))


def plain_view(image, params, size, interpolation='bicubic'):
    """One view, (h, w, 3), uint8; ``params`` are of one view of one image."""
    img = Image.fromarray(image)
    box = [int(params[name]) for name in ('top', 'left', 'height', 'width')]
    img = F.resized_crop(img, *box, list(size), InterpolationMode(interpolation))
    if params['flip']:
        img = F.hflip(img)
    for step in params['order']:
        if step == BRIGHTNESS and params['brightness'] != 1:
            img = F.adjust_brightness(img, params['brightness'])
        if step == CONTRAST and params['contrast'] != 1:
            img = F.adjust_contrast(img, params['contrast'])
        if step == SATURATION and params['saturation'] != 1:
            img = F.adjust_saturation(img, params['saturation'])
        if step == HUE and params['hue'] != 0:
            img = F.adjust_hue(img, params['hue'])
    if params['grayscale']:
        img = F.rgb_to_grayscale(img, 3)
    if params['radius']:
        img = img.filter(ImageFilter.GaussianBlur(float(params['radius'])))
    if params['solarize']:
        img = F.solarize(img, 128)
    return np.asarray(img)


def plain_views(images, params, sizes, interpolation='bicubic'):
    """All views of all images: for each view a list of arrays, one for each image."""
    return [
        [
            plain_view(
                image, {k: a[b, v] for k, a in params._asdict().items()}, size, interpolation
            )
            for b, image in enumerate(images)
        ]
        for v, size in enumerate(sizes)
    ]
