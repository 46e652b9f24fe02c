# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Images, and views of them made one by one, by Pillow and torchvision alone, from given parameters."""

import cv2
import numpy as np
from PIL import Image
from plain_crops import plain_view_of

from mmmokd.datasets.transforms.view_pixels import ViewStep
from mmmokd.structures import ViewGroup


def photo(height, width, seed=0):
    """Smooth shapes in all colors, with some noise, (H, W, 3), uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(height // 8 + 2, width // 8 + 2, 3))
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    image += 0.15 * rng.normal(size=image.shape)
    return np.uint8(np.clip(128 + 60 * image, 0, 255))


def plain_views(images, params, sizes, interpolation='bicubic'):
    """All views of all images: for each view a list of arrays, one for each image."""
    groups = [ViewGroup(size=size, scale=(1, 1), interpolation=interpolation) for size in sizes]
    return [
        [
            np.asarray(
                plain_view_of(
                    Image.fromarray(image), group, ViewStep(*(a[b, v].tolist() for a in params))
                )
            )
            for b, image in enumerate(images)
        ]
        for v, group in enumerate(groups)
    ]
