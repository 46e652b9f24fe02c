# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Training with its data: JPEGs by data workers, CIFAR-10 whole, and the start of a run."""

import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config
from mmpretrain.datasets import CIFAR10

from mmmokd.registry import DATASETS

from .result import Measured, Result, Settings, Table, number
from .runs import ROOT, Case, training
from .step import BFLOAT16, NO_BENCHMARK, QUICK, describe, step_case
from .timing import alternate

CIFAR = 'mokd/mokd_resnet18_vit-tiny-p4_1xb256-amp-coslr-200e_cifar10.py'
# Views made by the device, and images that it keeps.
ON_DEVICE = {'data_preprocessor.type': 'mmmokd.MultiCropDataPreprocessor'}
KEPT = {'data_preprocessor.keep_images': True}
FIRST_STEP = re.compile(r'Epoch\(train\)|Iter\(train\)')
START_LIMIT = 180  # seconds


@DATASETS.register_module()
class NoiseCIFAR10(CIFAR10):
    """CIFAR-10 as it lies on the disk, of noise."""

    def _check_integrity(self) -> bool:
        return True  # its checksums are those of no other data


def write_cifar(folder: Path, per_file: int) -> None:
    """Write noise in the format of CIFAR-10.

    Args:
        folder (Path): Where to.
        per_file (int): Images in each of the five files.
    """
    rng = np.random.default_rng(0)
    root = folder / NoiseCIFAR10.base_folder
    root.mkdir(parents=True)
    for name, _ in [*NoiseCIFAR10.train_list, *NoiseCIFAR10.test_list]:
        data = rng.integers(0, 256, (per_file, 3072), dtype=np.uint8)
        labels = rng.integers(0, 10, per_file).tolist()
        (root / name).write_bytes(pickle.dumps(dict(data=data, labels=labels)))


def write_jpegs(folder: Path, files: int, copies: int = 1) -> None:
    """Write JPEGs of 500 x 375 pixels: smooth colors and some noise, about 60 kB each.

    Args:
        folder (Path): Where to.
        files (int): How many different ones.
        copies (int): Names of each. Defaults to 1.
    """
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number_ in range(files):
        coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (500, 375), interpolation=cv2.INTER_CUBIC)
        image = np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)
        file = folder / f'{number_}.jpg'
        cv2.imwrite(str(file), image, [cv2.IMWRITE_JPEG_QUALITY, 90])
        for copy in range(1, copies):
            os.link(file, folder / f'{number_}_{copy}.jpg')


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _set_folder(cfg: Config, images: Path, workers: int, batch: int) -> None:
    """Let a config's own pipeline read a folder of images."""
    pipeline = cfg.train_dataloader.dataset.pipeline
    cfg.train_dataloader.dataset = dict(
        type='mmmokd.ImageFolder', data_root=str(images), pipeline=pipeline
    )
    cfg.train_dataloader.update(batch_size=batch, num_workers=workers)
    cfg.train_dataloader.persistent_workers = workers > 0
    cfg.train_cfg = dict(type='SingleStepLoop', max_epochs=100)


def _shrink_views(cfg: Config, case: Case) -> None:
    """Make the pipeline's views those of a tiny case."""
    for step in cfg.train_dataloader.dataset.pipeline:
        if step.type == 'mmmokd.MultiCrop':
            first, second, local = step.groups
            num = len(case.sizes) - 2
            sizes = case.sizes[0], case.sizes[-1]
            step.groups = [
                dict(first, size=sizes[0]),
                dict(second, size=sizes[0]),
                dict(local, size=sizes[1], num=num),
            ]


def _rate(cfg: Config, batch: int, warm_up: int, steps: int) -> float:
    """Images per second of a run, after its queue of batches is used up."""
    with training(cfg) as run:
        seconds = alternate(dict(step=run.step), 1, warm_up=warm_up, calls=steps)['step']
    return batch / seconds


def loader(settings: Settings) -> Measured:
    """The step of the goals with its data workers, as a share of the rate without.

    Args:
        settings (Settings): What the user asked for.

    Returns:
        Measured: Images per second, with views by the workers and by the device.
    """
    case = step_case(settings)
    workers, files, copies, warm_up, steps = 16, 256, 50, 48, 48
    if settings.quick:
        workers, files, copies, warm_up, steps = 0, 4, 2, 1, 2
    synthetic = _rate(case.synthetic(), case.batch, min(warm_up, 5), steps)
    results, rows = [], [['one batch, again and again', number(synthetic), '1']]
    with _folder() as folder:
        write_jpegs(folder / 'images', files, copies)
        for name, options in {'views by the workers': {}, 'views by the device': ON_DEVICE}.items():
            cfg = case.load(options)
            _set_folder(cfg, folder / 'images', workers, case.batch)
            if settings.quick:
                _shrink_views(cfg, case)
            rate = _rate(cfg, case.batch, warm_up, steps)
            rows.append([name, number(rate), f'{rate / synthetic:.2f}'])
            what = f'{workers} data workers, 500 x 375 JPEGs, {name}'
            results.append(
                Result('loader', what, 'images/s', rate, synthetic, 'synthetic', 0.9, at_least=True)
            )
    header = ['data', 'images/s', 'share']
    return Measured(results, [Table(f'Data of {describe(case)}', header, rows)])


def cifar(settings: Settings) -> Measured:
    """The CIFAR-10 pair, data included.

    Args:
        settings (Settings): What the user asked for.

    Returns:
        Measured: Images per second beside the rate without data.
    """
    batch, per_file, warm_up, steps = 256, 10_000, 20, 60
    options: dict[str, Any] = {**NO_BENCHMARK, **BFLOAT16}
    if settings.quick:
        batch, per_file, warm_up, steps = 4, 4, 1, 2
        narrow = {**QUICK, 'model.global_size': 32, 'model.branches.vit.backbone.img_size': 32}
        options.update(narrow)
    case = Case(CIFAR, {**options, **settings.options}, batch, (32, 16), 4)
    synthetic = _rate(case.synthetic(), batch, min(warm_up, 10), steps)
    results = []
    with _folder() as folder:
        write_cifar(folder, per_file)
        for name, more in {'by the workers': {}, 'on the device': {**ON_DEVICE, **KEPT}}.items():
            cfg = case.load(more)
            _set_cifar(cfg, folder, batch, settings)
            rate = _rate(cfg, batch, warm_up, steps)
            what = f'CIFAR-10 pair with its data {name}, {describe(case)}'
            goal = dict(goal=8000, at_least=True, absolute=True)
            results.append(Result('cifar', what, 'images/s', rate, synthetic, 'synthetic', **goal))
    return Measured(results)


def _set_cifar(cfg: Config, folder: Path, batch: int, settings: Settings) -> None:
    """Let a config read the noise, with four local views."""
    dataset = cfg.train_dataloader.dataset
    dataset.update(type='mmmokd.NoiseCIFAR10', data_root=str(folder))
    for step in dataset.pipeline:
        if step.type == 'mmmokd.MultiCrop':
            step.groups[-1].num = 4
    cfg.train_dataloader.batch_size = batch
    if settings.quick:
        cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.train_cfg = dict(type='SingleStepLoop', max_epochs=100)


def start(settings: Settings) -> Measured:
    """From the start of ``tools/train.py`` to the first logged step.

    Args:
        settings (Settings): What the user asked for.

    Returns:
        Measured: Seconds, and a table of what was printed when.

    Raises:
        RuntimeError: If the run ends before, or is too slow.
    """
    case = step_case(settings)
    with _folder() as folder:
        write_jpegs(folder / 'images', 8 if settings.quick else 64, 1 if settings.quick else 100)
        cfg = case.load()
        train_cfg, workers = cfg.train_cfg, cfg.train_dataloader.num_workers
        _set_folder(cfg, folder / 'images', 0 if settings.quick else workers, case.batch)
        cfg.train_cfg, cfg.log_level = train_cfg, 'INFO'
        if settings.quick:
            _shrink_views(cfg, case)
            cfg.default_hooks.logger.interval = 1
        cfg.dump(folder / 'config.py')
        script = ROOT / 'tools' / 'train.py'
        command = [sys.executable, script, folder / 'config.py', '--work-dir', folder / 'run']
        lines = _lines_until_first_step([*map(str, command)], folder)
    seconds = lines[-1][0]
    rows = [[number(at), text[:100].replace('|', '/')] for at, text in lines]
    what = 'start of tools/train.py to the first logged step'
    return Measured(
        [Result('start', what, 's', seconds, goal=20, absolute=True)],
        [Table('Start of a run', ['s', 'line'], rows)],
    )


def _lines_until_first_step(command: list[str], folder: Path) -> list[tuple[float, str]]:
    """Run a command until it logs a step; the lines that it printed, and when."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env={**os.environ, 'PYTHONUNBUFFERED': '1'},
    )
    lines = []
    try:
        for line in process.stdout:
            lines.append((time.perf_counter() - begin, line.strip()))
            if FIRST_STEP.search(line):
                return lines
            if lines[-1][0] > START_LIMIT:
                break
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
    said = '\n'.join(text for _, text in lines[-5:])
    raise RuntimeError(f'tools/train.py logged no step in {lines[-1][0]:.0f} s; it said:\n{said}')
