# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Data workers that end with the process they work for."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader

if TYPE_CHECKING:
    from mmengine.runner import Runner

POLL_INTERVAL = 1.0  # seconds


class EndWithParent:
    """A ``worker_init_fn`` after which a data worker ends as soon as its parent has.

    PyTorch's own check does not do. A worker looks for its parent between two batches, and before
    it ends it waits until its last batches are read, by nobody: killed, a process leaves its
    workers behind, with their memory. So does one that is killed while they start.

    Ctrl-C, which a terminal sends to all processes, is left to the parent, which ends its workers.

    Args:
        init_fn (Callable, optional): The loader's ``worker_init_fn``. Defaults to None.
    """

    def __init__(self, init_fn: Callable[[int], Any] | None = None) -> None:
        self.init_fn = init_fn

    def __call__(self, worker_id: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
        if self.init_fn is not None:
            self.init_fn(worker_id)


def _end_with_parent(parent_id: int) -> None:
    # Ready once the parent has ended, and already if it ended before this thread began. Processes
    # that the parent started later hold it open as well; then it is the number that tells.
    sentinel = multiprocessing.parent_process().sentinel
    while not wait([sentinel], timeout=POLL_INTERVAL) and os.getppid() == parent_id:
        pass
    os.kill(os.getpid(), signal.SIGTERM if os.name == 'nt' else signal.SIGKILL)


def end_workers_with_parent(runner: Runner) -> None:
    """Let the workers of every loader that a Runner builds end with their parent.

    Args:
        runner (Runner): The Runner, whose loaders are not yet built; changed in place.
    """
    build = runner.build_dataloader

    def build_dataloader(*args, **kwargs) -> DataLoader:
        loader = build(*args, **kwargs)
        if loader.num_workers and not isinstance(loader.worker_init_fn, EndWithParent):
            loader.worker_init_fn = EndWithParent(loader.worker_init_fn)
        return loader

    runner.build_dataloader = build_dataloader
