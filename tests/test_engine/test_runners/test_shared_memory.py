# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement
from torch.utils.data import DataLoader

from mmmokd.cli.errors import explain_error
from mmmokd.engine.runners.shared_memory import (
    MB,
    explain_exhausted,
    fit_shared_memory,
    free_shared_memory,
)


class Images:
    """Samples of a megabyte, half of it in a data element; drawing one takes random numbers."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        random.random(), np.random.rand(), torch.rand(1)
        half = torch.zeros(MB // 2, dtype=torch.uint8)
        return dict(inputs=[half], data_samples=BaseDataElement(img=half), index=index)


def loader(workers, prefetch=2, **kwargs):
    prefetch = prefetch if workers else None
    return DataLoader(
        Images(), num_workers=workers, prefetch_factor=prefetch, collate_fn=list, **kwargs
    )


@pytest.mark.parametrize(
    'workers, free, expected',
    [
        (4, None, (4, 2)),
        (4, 8192, (4, 2)),
        (4, 40, (4, 2)),  # 8 batches of 4 MB wait, and 2 are in use
        (4, 39, (4, 1)),
        (4, 24, (4, 1)),
        (4, 23, (3, 1)),
        (4, 12, (1, 1)),
        (4, 11, (0, None)),
        (0, 1, (0, None)),
    ],
)
@pytest.mark.parametrize('sampler', [False, True])
def test_as_many_batches_wait_as_there_is_room_for(workers, free, expected, sampler):
    if sampler:  # as mmdet's, the batch size is that of the batch sampler
        batches = torch.utils.data.BatchSampler(range(64), 4, drop_last=False)
        made = loader(workers, batch_sampler=batches)
    else:
        made = loader(workers, batch_size=4, persistent_workers=workers > 0)
    said = fit_shared_memory(made, free and free * MB)
    assert (made.num_workers, made.prefetch_factor) == expected
    assert (said is None) == (expected == (workers, 2 if workers else None))
    if said:
        assert f'{free} MB free' in said and '--shm-size' in said and '4.0 MB' in said
    if made.num_workers == 0:
        assert len(next(iter(made))) == 4


def test_random_numbers_are_as_if_nothing_was_measured():
    draws = []
    for free in (None, 11 * MB):
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        fit_shared_memory(loader(4, batch_size=4), free)
        draws.append((random.random(), np.random.rand(), float(torch.rand(1))))
    assert draws[0] == draws[1]


@pytest.mark.parametrize(
    'error',
    [
        RuntimeError(
            'DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that '
            "dataloader's workers are out of shared memory."
        ),
        RuntimeError('unable to mmap 602112 bytes from file </torch_1_2_3>: Cannot allocate'),
        RuntimeError('unable to write to file </torch_1_2_3>: No space left on device (28)'),
        RuntimeError('unable to allocate shared memory(shm) for file </torch_1_2>: Success (0)'),
        OSError(28, 'No space left on device', '/dev/shm/torch_1'),
    ],
)
def test_exhausted_memory_is_one_sentence(error):
    said = explain_error(error)
    assert said == explain_exhausted(error)
    assert '--shm-size' in said and '--ipc=host' in said and 'num_workers' in said
    assert '\n' not in said


@pytest.mark.parametrize(
    'error', [RuntimeError('a fault'), OSError(28, 'No space left', '/data/x')]
)
def test_other_errors_are_not_explained_by_it(error):
    assert explain_exhausted(error) is None


def test_free_memory_is_shared_by_the_processes_of_a_machine(tmp_path, monkeypatch):
    monkeypatch.setattr('os.statvfs', lambda path: SimpleNamespace(f_bavail=64, f_frsize=MB))
    assert free_shared_memory(tmp_path) == 64 * MB
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '2')
    assert free_shared_memory(tmp_path) == 32 * MB
    monkeypatch.undo()
    assert free_shared_memory(tmp_path / 'missing') is None
