# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Images on disk, and what LoadImage makes of them."""

import numpy as np
from PIL import Image

from mmmokd.datasets import LoadImage

RAMP = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)  # every 16th value of 16 bits
TRUE_RAMP = RAMP.astype(np.float64) / 65535 * 255


def rgb_noise(height=12, width=20, channels=3):
    shape = (height, width, channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def save(path, array, mode=None, **kwargs):
    Image.fromarray(array).convert(mode).save(path, **kwargs)
    return path


def load(path, **kwargs):
    results = LoadImage(**kwargs)(dict(img_path=str(path), sample_idx=0))
    img = results['img']
    assert img.dtype == np.uint8 and img.ndim == 3 and img.shape[2] == 3
    assert results['img_shape'] == results['ori_shape'] == img.shape[:2]
    return img


def ks_distance(ours, theirs):
    """The largest difference of two distributions, as Kolmogorov and Smirnov measure it."""
    at = np.sort(np.concatenate((ours, theirs)))
    shares = [np.searchsorted(np.sort(x), at, side='right') / len(x) for x in (ours, theirs)]
    return np.abs(shares[0] - shares[1]).max()
