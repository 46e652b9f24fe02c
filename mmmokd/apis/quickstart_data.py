# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Pictures for the quick start: the repository's own, or a folder made small enough for a CPU."""

import gzip
import random
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.utils import ProgressBar

from mmmokd.datasets import BadPictureError, PictureFolder
from mmmokd.datasets.transforms import LoadPicture
from mmmokd.evaluation import weighted_knn

MAX_PICTURES = 10_000
SIDE = 72  # pixels of the shorter side; the views are cut at 64
TEST_SHARE = 0.2
MIN_PER_CLASS = 5
MIN_TRAIN = 20  # labelled pictures for training: the neighbours that k-NN asks for


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
        part = target / f'{file.stem}.part'
        with gzip.open(file) as packed, part.open('wb') as out:
            shutil.copyfileobj(packed, out)
        part.rename(target / file.stem)


def shrink_folder(source: Path, target: Path, seed: int) -> bool:
    """Copy a folder's pictures, small, to TARGET/train and, where it has classes, TARGET/test.

    Class folders are the folders right below SOURCE, if there are at least two, no picture lies
    beside them, and each has at least 5 pictures; then every fifth picture of a class goes to the
    test set. If that would leave fewer than 20 to train on, too few for k-NN, there are no classes.
    Of more than 10,000 pictures, as many are drawn. A second call finds the copies of the same
    folder and seed in place.

    Args:
        source (Path): Folder of pictures.
        target (Path): Folder to write to.
        seed (int): Of the draw.

    Returns:
        bool: Whether there are classes.

    Raises:
        FileNotFoundError: If the folder is not there.
        ValueError: If it has no pictures, or none can be read.
    """
    done = target / 'complete'
    root = Path(source).expanduser()
    origin = f'{root.resolve()}\nseed {seed}\n'  # another folder may have the same name
    if done.is_file() and done.read_text() == origin:
        return (target / 'test').is_dir()
    shutil.rmtree(target, ignore_errors=True)
    folder = PictureFolder(data_root=str(root), lazy_init=True)
    paths = [Path(info['img_path']) for info in folder.load_data_list()]
    random.Random(seed).shuffle(paths)
    print(f'{len(paths)} pictures in {root}', flush=True)
    if len(paths) > MAX_PICTURES:
        print(f'{MAX_PICTURES} of them are drawn for this quick start', flush=True)
        paths = paths[:MAX_PICTURES]
    jobs = _assign(paths, root, target)
    bad = []
    with ProcessPoolExecutor() as pool:
        bar = ProgressBar(len(jobs))
        for problem in pool.map(_shrink, jobs, chunksize=16):
            bad += [problem] if problem else []
            bar.update()
    written = len(jobs) - len(bad)
    print(f'\n{written} of {len(jobs)} pictures copied, {SIDE} pixels, to {target}', flush=True)
    for problem in bad:
        print(f'left out: {problem}', flush=True)
    if not written:
        raise ValueError(f'none of the {len(jobs)} pictures in {root} can be read')
    done.write_text(origin)
    return (target / 'test').is_dir()


def _assign(paths: list[Path], root: Path, target: Path) -> list[tuple[Path, Path]]:
    """(source, copy) pairs; labelled ones in class folders of a training and a test set."""
    every = round(1 / TEST_SHARE)
    by_class: dict[str, list[Path]] = {}
    for path in paths:
        parts = path.relative_to(root).parts
        by_class.setdefault(parts[0] if len(parts) > 1 else '', []).append(path)
    counts = {name: len(files) for name, files in by_class.items()}
    num_train = sum(count - -(-count // every) for count in counts.values())
    labelled = len(counts) > 1 and '' not in counts and min(counts.values()) >= MIN_PER_CLASS
    if not labelled or num_train < MIN_TRAIN:
        print('no class folders large enough: label-free measures instead of k-NN', flush=True)
        return [(path, target / 'train' / f'{i:06d}.png') for i, path in enumerate(paths)]
    return [
        (path, target / ('train' if i % every else 'test') / name / f'{i:06d}.png')
        for name, files in sorted(by_class.items())
        for i, path in enumerate(files)
    ]


def _shrink(job: tuple[Path, Path]) -> str | None:
    """Write one copy; what was wrong with the picture, if anything."""
    source, copy = job
    try:
        img = LoadPicture(skip_bad=False)(dict(img_path=str(source), sample_idx=0))['img']
    except BadPictureError as error:
        return str(error)
    scale = SIDE / min(img.shape[:2])
    if scale < 1:
        size = [max(SIDE, round(side * scale)) for side in img.shape[1::-1]]
        img = cv2.resize(img, size, interpolation=cv2.INTER_AREA)
    copy.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(copy), img):
        raise OSError(f'cannot write {copy}')
    return None


def count_pictures(folder: Path) -> int:
    """Number of files in a folder of copies.

    Args:
        folder (Path): Folder that :func:`shrink_folder` wrote.

    Returns:
        int: The number.
    """
    return sum(1 for path in folder.rglob('*.png'))


def raw_pixel_knn(bank: BaseDataset, queries: BaseDataset, size: int, k: int = 20) -> float:
    """k-NN top-1 of the pictures' own pixels: what a model has to beat.

    Args:
        bank (BaseDataset): Labelled pictures, in a pipeline that ends with an image in ``img``.
        queries (BaseDataset): The same, to classify.
        size (int): Side in pixels that pictures are resized to.
        k (int): Neighbours. Defaults to 20.

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
