# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Time MultiCrop against the same views by torchvision and Pillow, as DINO's and MOKD's code has them.

Both sides read and cut the same image in turn, in one process, on one thread, as a data worker does,
up to 8-bit tensors. Times are the thread's own, which company on the machine touches least:

    python tools/benchmarks/benchmark_multi_crop.py [--rounds 10] [--image FILE] [--json FILE]
"""

__mmmokd_reads_arguments_first__ = True  # see mmmokd/__init__.py

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from mmmokd.cli.run_tool import run_tool

if TYPE_CHECKING:
    from mmmokd.structures.view_group import ViewGroup

# (height, width) of what is read: ImageNet's usual size, and a camera's.
SIZES = ((375, 500), (3000, 4000))
# Data sets of small images, held as arrays: their configs, (height, width, channels).
SMALL = {
    'CIFAR-10': ('cifar10_bs256_multi-crop.py', (32, 32, 3)),
    'Fashion-MNIST': ('fashion-mnist_bs64_multi-crop.py', (28, 28)),
}
IN_A_ROW = 4  # images of one side before it is the other's turn
DATASETS = Path(__file__).resolve().parents[2] / 'configs' / '_base_' / 'datasets'


def make_image(height: int = 375, width: int = 500, channels: int = 3) -> np.ndarray:
    """Make a colored image with smooth parts and grain.

    Args:
        height (int): Rows. Defaults to 375.
        width (int): Columns. Defaults to 500.
        channels (int): 1 or 3. Defaults to 3.

    Returns:
        np.ndarray: (height, width, 3), or (height, width) of one channel; uint8.
    """
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    img = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    img += rng.integers(-12, 13, (height, width, 1), dtype=np.int16)
    img = img.clip(0, 255).astype(np.uint8)
    return img if channels == 3 else img[..., 0].copy()


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch and OpenCV use one thread, as in a data worker."""
    import torch

    threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(cv2_threads)


def plain_side(
    groups: 'Sequence[ViewGroup]', file: str | None, img: np.ndarray
) -> tuple[Callable, Callable]:
    """Build the plain pipeline.

    Args:
        groups (Sequence[ViewGroup]): The views.
        file (str, optional): The image's file; None: the image is given as pixels alone.
        img (np.ndarray): Its pixels.

    Returns:
        tuple[Callable, Callable]: Reads the image; makes the views of what was read, as tensors.
    """
    from PIL import Image
    from plain_views import plain_view
    from torchvision.transforms.functional import pil_to_tensor

    views = [view for group in groups for view in [plain_view(group)] * group.num]

    def read() -> Image.Image:
        if file is None:
            return Image.fromarray(img).convert('RGB')
        with open(file, 'rb') as content:
            return Image.open(content).convert('RGB')

    return read, lambda image: [pil_to_tensor(view(image)) for view in views]


def our_side(
    groups: 'Sequence[ViewGroup]', file: str | None, img: np.ndarray
) -> tuple[Callable, Callable]:
    """Build the pipeline of the configs: LoadImage, MultiCrop, PackInputs.

    Args:
        groups (Sequence[ViewGroup]): The views.
        file (str, optional): The image's file; None: the image is given as pixels alone.
        img (np.ndarray): Its pixels.

    Returns:
        tuple[Callable, Callable]: Reads the image; makes the views of what was read, as tensors.
    """
    from mmpretrain.datasets.transforms import PackInputs

    from mmmokd.datasets import LoadImage, MultiCrop

    load, crop, pack = LoadImage(to_rgb=True, channel_order='rgb'), MultiCrop(groups), PackInputs()
    load.decode_for(crop)  # as DataHealthHook does in every run
    given = dict(img=img) if file is None else dict(img_path=file)
    return lambda: load(dict(given)), lambda results: pack(crop(dict(results)))['inputs']


def measure_crops(
    rounds: int = 10,
    size: Sequence[int] = SIZES[0],
    groups: 'Sequence[ViewGroup] | None' = None,
    file: str | None = None,
    as_pixels: bool = False,
) -> dict:
    """Time both sides in turn.

    Args:
        rounds (int): Turns of each side, of several images each. Defaults to 10.
        size (Sequence[int]): (height, width) of a made image, and its channels. Defaults to
            (375, 500).
        groups (Sequence[ViewGroup], optional): The views. Defaults to None, the paper's 2 + 8.
        file (str, optional): An image's file. Defaults to None, a made JPEG.
        as_pixels (bool): Whether the image is given as pixels, as small data sets are. Defaults to
            False.

    Returns:
        dict: ``image`` (width, height); ``views``, their number; of ``plain`` and ``ours``
        ``read_ms``, ``crops_ms`` and ``images_per_s``, medians; the ratios of times plain / ours,
        ``ratio`` of both parts together and ``ratio_of_crops``.
    """
    from PIL import Image

    from mmmokd.datasets.transforms.multi_crop import PAPER_GROUPS
    from mmmokd.structures import ViewGroup

    groups = ViewGroup.from_configs(PAPER_GROUPS if groups is None else groups)
    with tempfile.TemporaryDirectory() as folder, one_thread():
        if file is None:
            img = make_image(*size)
            file = f'{folder}/image.jpg'
            Image.fromarray(img).save(file, quality=90)
        with Image.open(file) as opened:
            width, height = opened.size
            img = np.array(opened) if as_pixels else None
        made = (side(groups, None if as_pixels else file, img) for side in (plain_side, our_side))
        sides = dict(zip(('plain', 'ours'), made, strict=True))
        times = {name: [] for name in sides}
        for _ in range(rounds):
            for name, (read, cut) in sides.items():
                _time(read, cut)  # in caches that the other side has filled
                times[name] += [_time(read, cut) for _ in range(IN_A_ROW)]
    found = {name: _summarize(each) for name, each in times.items()}
    plain, ours = found.values()
    return dict(
        image=(width, height),
        views=sum(group.num for group in groups),
        **found,
        ratio=ours['images_per_s'] / plain['images_per_s'],
        ratio_of_crops=plain['crops_ms'] / ours['crops_ms'],
    )


def _time(read: Callable, cut: Callable) -> tuple[float, float]:
    start = time.thread_time()
    image = read()
    between = time.thread_time()
    cut(image)
    return 1000 * (between - start), 1000 * (time.thread_time() - between)


def _summarize(times: list[tuple[float, float]]) -> dict[str, float]:
    read, crops = (statistics.median(part) for part in zip(*times, strict=True))
    whole = statistics.median(map(sum, times))
    return dict(read_ms=read, crops_ms=crops, images_per_s=1000 / whole)


def measure_cases(rounds: int, file: str | None) -> dict[str, dict]:
    """Time the paper's views of photographs, and the views of small images.

    Args:
        rounds (int): Turns of each side.
        file (str, optional): A photograph to take. Defaults to None: made ones.

    Returns:
        dict[str, dict]: What :func:`measure_crops` gives, by a name.
    """
    from mmengine.config import Config

    if file:
        return {Path(file).name: measure_crops(rounds, file=file)}
    cases = {
        f'JPEG, {width} x {height}': measure_crops(
            max(rounds // (1 + height // 1000), 1), (height, width)
        )
        for height, width in SIZES
    }
    for name, (config, size) in SMALL.items():
        groups = Config.fromfile(DATASETS / config).train_pipeline[1].groups
        shape = size if len(size) == 3 else (*size, 1)
        cases[name] = measure_crops(4 * rounds, shape, groups, as_pixels=True)
    return cases


def show(cases: dict[str, dict]) -> None:
    """Print a table.

    Args:
        cases (dict[str, dict]): From :func:`measure_cases`.
    """
    print(f'{"":20} views   {"plain: read, crops":>26}   {"ours: read, crops":>26}   ratio (crops)')
    for name, case in cases.items():
        cells = [
            f'{side["read_ms"]:6.2f} {side["crops_ms"]:6.2f} ms {side["images_per_s"]:7.0f}/s'
            for side in (case['plain'], case['ours'])
        ]
        ratios = f'{case["ratio"]:.2f} x ({case["ratio_of_crops"]:.2f} x)'
        print(f'{name:20} {case["views"]:5}   {"   ".join(cells)}   {ratios}')


def main() -> None:
    """Print the medians of both sides, in images per second of one thread, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=10, help='turns of each side (default: 10)')
    parser.add_argument('--image', help='image file (default: made images of several sizes)')
    parser.add_argument('--json', help='file to write the numbers to')
    args = parser.parse_args()
    from mmmokd.utils.atomic import atomic_write

    cases = measure_cases(args.rounds, args.image)
    show(cases)
    if args.json:
        with atomic_write(args.json) as part:
            part.write_text(json.dumps(cases, indent=2) + '\n', encoding='utf-8')


if __name__ == '__main__':
    run_tool(main)
