# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Batches that wait in shared memory, of which a container has little: Docker gives 64 MB."""

import os
import random
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

FOLDER = Path('/dev/shm')
MB = 2**20
# Where more is free, nothing is measured.
PLENTY = 4096 * MB
IN_USE = 2  # batches besides those that wait: one is learned from, one is on its way
ADVICE = (
    'start the container with --shm-size=8g or --ipc=host, or take fewer workers, as by '
    '--cfg-options train_dataloader.num_workers=1'
)
# Messages of PyTorch, in the main process or in a worker, when no more is left.
EXHAUSTED = re.compile(
    r'out of shared memory|killed by signal: Bus error'
    r'|unable to (?:mmap|write to file|resize file|allocate shared memory|open shared memory)'
    r'|No space left on device.*(?:/dev/shm|/torch_)'
)


def explain_exhausted(error: BaseException) -> str | None:
    """Explain an error that is due to too little shared memory.

    Args:
        error (BaseException): As caught.

    Returns:
        str, optional: One message; None of any other error.
    """
    if not isinstance(error, RuntimeError | OSError) or not EXHAUSTED.search(str(error)):
        return None
    free = free_shared_memory()
    size = f' ({free / MB:.0f} MB are free in {FOLDER})' if free is not None else ''
    return f'the data workers have too little shared memory{size}: {ADVICE}'


def free_shared_memory(folder: Path = FOLDER) -> int | None:
    """Shared memory that is free, for each process that torchrun started on this machine.

    Args:
        folder (Path): Where it is mounted. Defaults to ``/dev/shm``.

    Returns:
        int, optional: Bytes; None where it is not mounted as a folder.
    """
    try:
        stat = os.statvfs(folder)
    except (OSError, AttributeError):  # not on macOS, not on Windows
        return None
    return stat.f_bavail * stat.f_frsize // int(os.environ.get('LOCAL_WORLD_SIZE', 1))


def fit_shared_memory(loader: DataLoader, free: int | None) -> str | None:
    """Let fewer batches of a dataloader wait at a time, where shared memory is too small for all.

    First each worker prepares fewer batches ahead, which changes no result; then there are fewer
    workers, down to none.

    Args:
        loader (DataLoader): One that was not yet read from; changed in place.
        free (int, optional): Bytes of shared memory. None: not known, nothing is changed.

    Returns:
        str, optional: What was changed and why; None if nothing was.
    """
    workers, ahead = loader.num_workers, loader.prefetch_factor
    if free is None or free >= PLENTY or not workers:
        return None
    batch = _count_bytes(_first(loader.dataset)) * batch_size_of(loader)
    room = free // max(1, batch) - IN_USE
    if workers * ahead <= room:
        return None
    if room >= workers:
        loader.prefetch_factor = room // workers
    else:
        loader.prefetch_factor = 1 if room > 0 else None
        loader.num_workers = max(0, room)
    if loader.num_workers:
        now = f'{loader.num_workers} with {loader.prefetch_factor}'
    else:
        now = 'none, images are read by the process that trains, which takes longer'
    return (
        f'{FOLDER} has {free / MB:.0f} MB free, too few for {workers} data workers that keep {ahead} '
        f'batches of {batch / MB:.1f} MB ready: {now}. For all of them, {ADVICE.partition(", or")[0]}'
    )


def batch_size_of(loader: DataLoader) -> int:
    """Images of a batch.

    Args:
        loader (DataLoader): With a batch size, or a batch sampler that has one, as mmdet's.

    Returns:
        int: 1 where neither says it.
    """
    return loader.batch_size or getattr(loader.batch_sampler, 'batch_size', None) or 1


def _first(dataset: Any) -> Any:
    """The first sample; random numbers, which augmentations draw, are as if it had not been read."""
    with _random_state_kept():
        try:
            return dataset[0]
        except Exception:  # it will be said where the data is read in earnest
            return None


@contextmanager
def _random_state_kept() -> Iterator[None]:
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


def _count_bytes(sample: Any) -> int:
    """Bytes of the tensors in a sample, which is what goes through shared memory."""
    if isinstance(sample, torch.Tensor):
        return sample.nbytes
    if isinstance(sample, Mapping):
        return sum(map(_count_bytes, sample.values()))
    if isinstance(sample, list | tuple):
        return sum(map(_count_bytes, sample))
    if hasattr(sample, 'all_items'):  # a data element of mmengine
        return sum(_count_bytes(value) for _, value in sample.all_items())
    return 0
