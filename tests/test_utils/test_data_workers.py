# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import multiprocessing
import os
import signal
import time
from types import SimpleNamespace

import pytest
from torch.utils.data import DataLoader, Dataset, get_worker_info

from mmmokd.utils.data_workers import EndWithParent, end_workers_with_parent


class Pids(Dataset):
    """Each item tells its worker's number; more of it than a pipe holds, so that workers wait."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        return os.getpid(), 'x' * 100_000


def keep(items):
    return items


def build(**kwargs):
    runner = SimpleNamespace(build_dataloader=DataLoader)
    end_workers_with_parent(runner)
    return runner.build_dataloader(Pids(), collate_fn=keep, **kwargs)


def read_two(pipe, method):
    loader = build(num_workers=2, prefetch_factor=8, multiprocessing_context=method)
    batches = iter(loader)
    pipe.send({next(batches)[0][0] for _ in range(2)})
    time.sleep(60)


def is_alive(pid):
    try:
        with open(f'/proc/{pid}/stat') as file:
            return file.read().rpartition(')')[2].split()[0] not in 'ZX'
    except FileNotFoundError:
        return False


@pytest.mark.parametrize('method', ['fork', pytest.param('spawn', marks=pytest.mark.long)])
def test_workers_end_with_a_killed_parent(method):
    ours, theirs = multiprocessing.Pipe()
    parent = multiprocessing.get_context('fork').Process(target=read_two, args=(theirs, method))
    parent.start()
    workers = ours.recv()
    assert len(workers) == 2 and all(map(is_alive, workers))
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    deadline = time.monotonic() + 10
    while any(map(is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, workers))


def numbered(worker_id):
    get_worker_info().dataset.number = worker_id


def test_loaders_own_function_is_called_and_ctrl_c_is_left_to_the_parent():
    loader = build(num_workers=1, worker_init_fn=numbered)
    loader.dataset.__class__ = type('Told', (Pids,), {'__getitem__': tell})
    assert next(iter(loader)) == [(0, signal.SIG_IGN)]


def tell(self, index):
    return self.number, signal.getsignal(signal.SIGINT)


def test_a_loader_is_changed_once_and_only_if_it_has_workers():
    assert build(num_workers=0).worker_init_fn is None
    loader = build(num_workers=1)
    runner = SimpleNamespace(build_dataloader=lambda loader: loader)
    end_workers_with_parent(runner)
    assert isinstance(runner.build_dataloader(loader).worker_init_fn, EndWithParent)
    assert loader.worker_init_fn.init_fn is None
