# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Images for the quick start: the repository's own, or a folder made small enough for a CPU."""

import gzip
import os
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.utils import ProgressBar
from quickstart_runs import (
    RECORD,
    hash_code,
    hash_files,
    hash_text,
    read_record,
    write_record,
)

from mmmokd.datasets import BadImageError, ImageFolder
from mmmokd.datasets.transforms import LoadImage
from mmmokd.evaluation import weighted_knn
from mmmokd.utils.atomic import atomic_write

MAX_IMAGES = 10_000
SIDE = 72  # pixels of the shorter side; the views are cut at 64
TEST_SHARE = 0.2
MIN_PER_CLASS = 5
MIN_TRAIN = 20  # labeled images for training: the neighbors that k-NN asks for
LOAD = LoadImage(skip_bad=False)  # one for all processes: what it warns of, it says once


def unpack_fashion_mnist(source: Path, target: Path) -> None:
    """Unpack the gzipped IDX files, as mmpretrain reads them.

    Args:
        source (Path): Folder with ``*-ubyte.gz``.
        target (Path): Folder to write to.

    Raises:
        FileNotFoundError: If there are no such files.
    """
    files = sorted(source.glob('*-ubyte.gz'))
    if not files:
        raise FileNotFoundError(f'no *-ubyte.gz in {source}: is the repository complete?')
    target.mkdir(parents=True, exist_ok=True)
    for file in files:
        with atomic_write(target / file.stem) as part:  # two calls may do this at once
            with gzip.open(file) as packed, part.open('wb') as out:
                shutil.copyfileobj(packed, out)


def find_images(source: Path) -> list[Path]:
    """The images below a folder, by path.

    Args:
        source (Path): The folder.

    Returns:
        list[Path]: Their files.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If it has no images.
    """
    folder = ImageFolder(data_root=str(source), lazy_init=True)
    return [Path(info['img_path']) for info in folder.load_data_list()]


def check_apart(source: Path, target: Path) -> None:
    """Make sure that copies neither replace images nor become images of the next call.

    Args:
        source (Path): Folder of images, absolute.
        target (Path): Folder to write to, absolute.

    Raises:
        ValueError: If one is in the other.
    """
    if source == target or source in target.parents or target in source.parents:
        raise ValueError(
            f'cannot write to {target}: it is, or is in, or holds the folder of images, '
            f'{source}. Name another folder by --out'
        )


def shrink_folder(paths: list[Path], source: Path, target: Path, seed: int) -> bool:
    """Copy a folder's images, small, to TARGET/train and, where it has classes, TARGET/test.

    Class folders are the folders right below SOURCE, if there are at least two, no image lies
    beside them, and each has at least 5 images that can be read; then every fifth image of a
    class goes to the test set. If that would leave fewer than 20 to train on, too few for k-NN,
    there are no classes. Of more than 10,000 images, as many are drawn. A second call finds the
    copies in place, if folder, images, seed and this package are what they were.

    Args:
        paths (list[Path]): Its images, from :func:`find_images`.
        source (Path): The folder.
        target (Path): Folder to write to.
        seed (int): Of the draw.

    Returns:
        bool: Whether there are classes.

    Raises:
        ValueError: If no image can be read, or ``target`` holds something else.
    """
    origin = dict(folder=str(source), seed=seed, images=_hash_state(paths), code=hash_code())
    found = read_record(target)
    if not found or found != dict(origin, copies=hash_files(target, '*.png')):
        _empty(target, source)
        _copy(paths, source, target, seed)
        write_record(target, dict(origin, copies=hash_files(target, '*.png')))
    return (target / 'test').is_dir()


def _hash_state(paths: list[Path]) -> str:
    """Changes with every image that is added, removed, moved or written."""

    def describe(path: Path) -> str:
        try:
            stat = path.stat()
        except OSError:  # a link to nothing; to be reported when it is read
            return f'{path}'
        return f'{path}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}'

    return hash_text('\n'.join(map(describe, paths)))


def _empty(target: Path, source: Path) -> None:
    """Make a folder for copies; remove earlier copies, and nothing that is not the quick start's."""
    found = read_record(target)
    if found is None and target.exists() and any(target.iterdir()):
        raise ValueError(
            f'{target} holds files that no quick start of this version wrote: remove the folder, '
            'or name another by --out'
        )
    if found:
        print(
            f'{target} holds other copies than those of {source} as it is: copied again', flush=True
        )
    write_record(target, {})  # first, so that what a stopped call leaves is known to be ours
    for path in target.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != RECORD:
            path.unlink()


def _copy(paths: list[Path], source: Path, target: Path, seed: int) -> None:
    """Copy images, or as many as are drawn; those that can be read go to their sets."""
    paths = list(paths)
    random.Random(seed).shuffle(paths)
    if len(paths) > MAX_IMAGES:
        print(f'{MAX_IMAGES} of them are drawn for this quick start', flush=True)
        paths = paths[:MAX_IMAGES]
    copies = {path: target / 'copied' / f'{i:06d}.png' for i, path in enumerate(paths)}
    (target / 'copied').mkdir()
    bad = {}
    # Threads: decoding holds no lock, and unlike processes they end with this one, however it ends.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        bar = ProgressBar(len(paths))
        for path, problem in zip(paths, pool.map(_shrink, copies.items()), strict=True):
            bad |= {path: problem} if problem else {}
            bar.update()
    readable = [path for path in paths if path not in bad]
    print(f'\n{len(readable)} of {len(paths)} images copied, {SIDE} pixels, to {target}')
    for problem in bad.values():
        print(f'left out: {problem}', flush=True)
    if not readable:
        raise ValueError(f'none of the {len(paths)} images in {source} can be read')
    for path, place in _assign(readable, source, target).items():
        place.parent.mkdir(parents=True, exist_ok=True)
        copies[path].rename(place)
    (target / 'copied').rmdir()


def _assign(paths: list[Path], root: Path, target: Path) -> dict[Path, Path]:
    """A place for each image: labeled ones in class folders of a training and a test set."""
    every = round(1 / TEST_SHARE)
    by_class: dict[str, list[Path]] = {}
    for path in paths:
        parts = path.relative_to(root).parts
        by_class.setdefault(parts[0] if len(parts) > 1 else '', []).append(path)
    counts = {name: len(files) for name, files in by_class.items()}
    num_train = sum(count - -(-count // every) for count in counts.values())
    labeled = len(counts) > 1 and '' not in counts and min(counts.values()) >= MIN_PER_CLASS
    if not labeled or num_train < MIN_TRAIN:
        print('no class folders large enough: label-free measures instead of k-NN', flush=True)
        return {path: target / 'train' / f'{i:06d}.png' for i, path in enumerate(paths)}
    return {
        path: target / ('train' if i % every else 'test') / name / f'{i:06d}.png'
        for name, files in sorted(by_class.items())
        for i, path in enumerate(files)
    }


def _shrink(job: tuple[Path, Path]) -> str | None:
    """Write one copy; what was wrong with the image, if anything."""
    source, copy = job
    try:
        img = LOAD(dict(img_path=str(source), sample_idx=0))['img']
    except BadImageError as error:
        return str(error)
    scale = SIDE / min(img.shape[:2])
    if scale < 1:
        size = [max(SIDE, round(side * scale)) for side in img.shape[1::-1]]
        img = cv2.resize(img, size, interpolation=cv2.INTER_AREA)
    copy.write_bytes(cv2.imencode('.png', img)[1])  # cv2.imwrite would not say why it cannot
    return None


def count_images(folder: Path) -> int:
    """Number of files in a folder of copies.

    Args:
        folder (Path): Folder that :func:`shrink_folder` wrote.

    Returns:
        int: The number; 0 if it does not exist.
    """
    return sum(path.is_file() for path in folder.rglob('*.png'))


def raw_pixel_knn(bank: BaseDataset, queries: BaseDataset, size: int, k: int = 20) -> float:
    """k-NN top-1 of the images' own pixels: what a model has to beat.

    Args:
        bank (BaseDataset): Labeled images, in a pipeline that ends with an image in ``img``.
        queries (BaseDataset): The same, to classify.
        size (int): Side in pixels that images are resized to.
        k (int): Neighbors. Defaults to 20.

    Returns:
        float: Accuracy in per cent.
    """

    def pixels(dataset) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = [], []
        for i in range(len(dataset)):
            img = dataset[i]['img']
            if img.shape[:2] != (size, size):
                img = cv2.resize(img, (size, size), interpolation=cv2.INTER_AREA)
            images.append(np.ravel(img))
            labels.append(int(dataset.get_data_info(i)['gt_label']))
        return torch.from_numpy(np.stack(images)).float(), torch.tensor(labels)

    (bank_pixels, bank_labels), (query_pixels, query_labels) = pixels(bank), pixels(queries)
    predicted = weighted_knn(bank_pixels, bank_labels, query_pixels, k=k)[k][:, 0]
    return 100 * (predicted == query_labels).double().mean().item()
