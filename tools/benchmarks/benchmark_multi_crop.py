# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Time MultiCrop against the same 2 + 8 views made by mmpretrain's transforms.

Both sides run in turn in the same process, on one thread, as a data worker does:

    python tools/benchmarks/benchmark_multi_crop.py [--rounds 30] [--image FILE]
"""

__mmmokd_reads_arguments_first__ = True  # see mmmokd/__init__.py

import argparse
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import cv2
import numpy as np

from mmmokd.cli.run_tool import run_tool

if TYPE_CHECKING:
    from mmmokd.structures.view_group import ViewGroup


def stock_view(group: 'ViewGroup') -> list[dict]:
    """One view as mmpretrain's MoCo v3 config describes it.

    Args:
        group (ViewGroup): A group of MultiCrop.

    Returns:
        list[dict]: A pipeline of mmpretrain's transforms.
    """
    brightness, contrast, saturation, hue = group.color_jitter
    jitter = dict(
        type='ColorJitter',
        brightness=brightness,
        contrast=contrast,
        saturation=saturation,
        hue=hue,
    )
    return [
        dict(
            type='RandomResizedCrop',
            scale=group.size,
            crop_ratio_range=group.scale,
            interpolation=group.interpolation,
            backend='pillow',
        ),
        dict(type='RandomApply', transforms=[jitter], prob=group.color_jitter_prob),
        dict(
            type='RandomGrayscale',
            prob=group.grayscale,
            keep_channels=True,
            channel_weights=(0.114, 0.587, 0.2989),
        ),
        dict(
            type='GaussianBlur',
            magnitude_range=group.blur_radius,
            magnitude_std='inf',
            prob=group.blur,
        ),
        dict(type='Solarize', thr=128, prob=group.solarize),
        dict(type='RandomFlip', prob=group.flip),
    ]


def make_image(height: int = 375, width: int = 500) -> np.ndarray:
    """A smooth colored image of ImageNet's usual size.

    Args:
        height (int): Rows. Defaults to 375.
        width (int): Columns. Defaults to 500.

    Returns:
        np.ndarray: (height, width, 3), uint8.
    """
    coarse = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def measure(transform: Callable[[dict], dict], img: np.ndarray) -> float:
    """Time one call.

    Args:
        transform (Callable): From a results dict to a results dict.
        img (np.ndarray): The image.

    Returns:
        float: Milliseconds.
    """
    start = time.perf_counter()
    transform(dict(img=img))
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    """Print the medians of both sides and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=30, help='calls of each side')
    parser.add_argument('--image', help='image file (default: a made one of 500 x 375)')
    args = parser.parse_args()
    compare(args.rounds, args.image)


def compare(rounds: int, image: str | None) -> None:
    """Time both sides in turn, and print what they took."""
    import torch
    from mmengine.registry import init_default_scope
    from mmpretrain.registry import TRANSFORMS

    from mmmokd.datasets import LoadImage, MultiCrop
    from mmmokd.datasets.transforms.multi_crop import PAPER_GROUPS

    torch.set_num_threads(1)
    cv2.setNumThreads(1)

    init_default_scope('mmpretrain')
    stock = TRANSFORMS.build(
        dict(
            type='MultiView',
            num_views=[group.num for group in PAPER_GROUPS],
            transforms=[stock_view(group) for group in PAPER_GROUPS],
        )
    )
    sides = {'MultiCrop': MultiCrop(), 'mmpretrain MultiView': stock}
    img = LoadImage()(dict(img_path=image))['img'] if image else make_image()
    times = {name: [] for name in sides}
    for warm_up in (True, *[False] * rounds):
        for name, transform in sides.items():
            elapsed = measure(transform, img)
            if not warm_up:
                times[name].append(elapsed)

    num_views = sum(group.num for group in PAPER_GROUPS)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        print(f'{name:>20}: {median:6.1f} ms an image ({num_views} views)')
    ours, theirs = medians.values()
    print(f'MultiCrop takes {ours / theirs:.2f} of the time')


if __name__ == '__main__':
    run_tool(main)
