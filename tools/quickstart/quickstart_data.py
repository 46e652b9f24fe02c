# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Images for the quick start: the repository's own, or a folder made small enough for a CPU."""

import gzip
import os
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
from mmengine.utils import ProgressBar
from quickstart_runs import ROOT, Task

from mmmokd.datasets import BadImageError, ImageFolder
from mmmokd.datasets.transforms import LoadImage
from mmmokd.utils.atomic import atomic_write, remove_parts
from mmmokd.utils.errors import ConfigError, DataError, MissingFileError

FASHION_MNIST = ROOT / 'resources' / 'fashion_mnist'
MIN_IMAGES, MAX_IMAGES = 32, 10_000
# A small folder is passed over more often: so many images are seen by each run.
IMAGES_SEEN, MAX_EPOCHS = 60_000, 200
VALIDATIONS = 6
BATCH_SIZE = 64
INTERVAL = 39  # iterations between log lines, as the configs have it
SIDE = 72  # pixels of the shorter side; the views are cut at 64
TEST_EVERY = 5  # one image of so many of a class is for testing
MIN_PER_CLASS = 5
MIN_TRAIN = 20  # labeled images for training: the neighbors that k-NN asks for
# Dataloaders of the labeled images, for training's validation and for an evaluation.
BANKS = ('val_cfg.bank_dataloader', 'test_cfg.bank_dataloader')
QUERIES = ('val_dataloader', 'test_dataloader')
LOAD = LoadImage(skip_bad=False)  # one for all threads: what it warns of, it says once


def fashion_mnist(data: Path, asked: dict[str, Any]) -> Task:
    """Unpack the repository's images, as mmpretrain reads them.

    Args:
        data (Path): Folder to write to.
        asked (dict): From :func:`open_record`.

    Returns:
        Task: What to train on.

    Raises:
        MissingFileError: If the repository lacks them.
    """
    files = sorted(FASHION_MNIST.glob('*-ubyte.gz'))
    if not files:
        raise MissingFileError(f'no *-ubyte.gz in {FASHION_MNIST}: is the repository complete?')
    data.mkdir(parents=True, exist_ok=True)
    for file in files:
        with atomic_write(data / file.stem) as part:  # two calls may do this at once
            with gzip.open(file) as packed, part.open('wb') as out:
                shutil.copyfileobj(packed, out)
    loaders = ('train_dataloader', *BANKS, *QUERIES)
    options = {f'{loader}.dataset.data_root': str(data) for loader in loaders}
    options['randomness.seed'] = asked['seed']
    if asked['epochs']:
        options['train_cfg.max_epochs'] = asked['epochs']
    return Task('fashion-mnist', True, options)


def own_images(copies: Path, paths: list[Path] | None, asked: dict[str, Any]) -> Task:
    """Copy a folder's images, small, unless that was done before.

    Args:
        copies (Path): Folder to write to.
        paths (list[Path], optional): The images, from :func:`find_images`. None: found here.
        asked (dict): From :func:`open_record`.

    Returns:
        Task: What to train on.

    Raises:
        DataError: If there are too few images that can be read.
    """
    source = Path(asked['images'])
    if not copies.is_dir():
        remove_parts(copies.parent, lambda name: name == copies.name)
        shrink_folder(paths or find_images(source), source, copies, asked['seed'])
    count, held_out = (len([*copies.glob(f'{part}/**/*.png')]) for part in ('train', 'test'))
    if count < MIN_IMAGES:
        held = f', of which {held_out} are kept for testing: {count} are left to train on'
        raise DataError(
            f'{source} has {count + held_out} readable images{held if held_out else ""}; '
            f'at least {MIN_IMAGES} are needed'
        )
    epochs = asked['epochs'] or min(MAX_EPOCHS, max(1, IMAGES_SEEN // count))
    batch_size = min(BATCH_SIZE, count // 2)
    interval = min(INTERVAL, count // batch_size)
    options = {
        'randomness.seed': asked['seed'],
        'train_cfg.max_epochs': epochs,
        'train_cfg.val_interval': max(1, epochs // VALIDATIONS),
        'train_dataloader.batch_size': batch_size,
        'default_hooks.logger.interval': interval,
        'default_hooks.collapse_monitor.interval': interval,
        'train_dataloader.dataset.data_root': str(copies / 'train'),
    }
    if held_out:
        for loaders, part in ((BANKS, 'train'), (QUERIES, 'test')):
            for loader in loaders:
                options[f'{loader}.dataset.data_root'] = str(copies / part)
    return Task('folder', bool(held_out), options)


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


def check_apart(source: Path, out: Path) -> None:
    """Make sure that copies neither replace images nor become images of the next call.

    Args:
        source (Path): Folder of images, absolute.
        out (Path): Folder to write to, absolute.

    Raises:
        ConfigError: If one is in the other.
    """
    if source == out or source in out.parents or out in source.parents:
        raise ConfigError(
            f'cannot write to {out}: it is, is in, or contains the folder of images, {source}. '
            'Name another folder by --out'
        )


def shrink_folder(paths: list[Path], source: Path, target: Path, seed: int) -> None:
    """Copy a folder's images, small, to TARGET/train and, where it has classes, TARGET/test.

    Class folders are the folders directly below SOURCE, if there are at least two, no image lies
    beside them, and each has at least 5 images that can be read; then every fifth image of a
    class goes to the test set. If that would leave fewer than 20 to train on, too few for k-NN,
    there are no classes. Of more than 10,000 images, 10,000 are drawn.

    Args:
        paths (list[Path]): Its images, from :func:`find_images`.
        source (Path): The folder.
        target (Path): Folder to write to, which must not exist.
        seed (int): Of the draw.

    Raises:
        DataError: If no image can be read.
    """
    paths = list(paths)
    random.Random(seed).shuffle(paths)
    if len(paths) > MAX_IMAGES:
        print(f'{MAX_IMAGES} of {len(paths)} images are drawn for this quick start', flush=True)
        paths = paths[:MAX_IMAGES]
    # Threads: decoding holds no lock, and unlike processes they end with this one, however it ends.
    with atomic_write(target) as part, ThreadPoolExecutor(os.cpu_count()) as pool:
        part.mkdir()
        copies = {path: part / f'{i:06d}.png' for i, path in enumerate(paths)}
        bar = ProgressBar(len(paths))
        for path, problem in zip(paths, pool.map(_shrink, paths, [*copies.values()]), strict=True):
            bar.update()
            if problem:
                del copies[path]
                print(f'\nleft out: {problem}', flush=True)
        print(f'\n{len(copies)} of {len(paths)} images copied, {SIDE} pixels, to {target}')
        if not copies:
            raise DataError(f'none of the {len(paths)} images in {source} can be read')
        for path, place in _assign(list(copies), source).items():
            (part / place).parent.mkdir(parents=True, exist_ok=True)
            copies[path].rename(part / place)


def _assign(paths: list[Path], root: Path) -> dict[Path, Path]:
    """A place for each image: labeled ones in class folders of a training and a test set."""
    by_class: dict[str, list[Path]] = {}
    for path in paths:
        parts = path.relative_to(root).parts
        by_class.setdefault(parts[0] if len(parts) > 1 else '', []).append(path)
    counts = {name: len(files) for name, files in by_class.items()}
    num_train = sum(count - -(-count // TEST_EVERY) for count in counts.values())
    labeled = len(counts) > 1 and '' not in counts and min(counts.values()) >= MIN_PER_CLASS
    if not labeled or num_train < MIN_TRAIN:
        print('no class folders large enough: label-free metrics instead of k-NN', flush=True)
        return {path: Path('train', f'{i:06d}.png') for i, path in enumerate(paths)}
    return {
        path: Path('train' if i % TEST_EVERY else 'test', name, f'{i:06d}.png')
        for name, files in sorted(by_class.items())
        for i, path in enumerate(files)
    }


def _shrink(source: Path, copy: Path) -> str | None:
    """Write one copy; what was wrong with the image, if anything."""
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
