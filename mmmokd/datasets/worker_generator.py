# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0

import numpy as np
import torch
from mmengine.dist import get_rank
from torch.utils.data import get_worker_info

from mmmokd.utils.errors import ConfigError


class WorkerGenerator:
    """Random numbers that differ per data worker, per rank and per epoch, and follow from the seed.

    The global generators do not do: mmengine seeds them in the workers with the same numbers in
    every epoch, and equally on all ranks in the main process. Here every process makes a generator
    of its own, keyed on its seed, worker number, rank, epoch and stream, continues it as long as
    the key stays, and makes a new one when the key changes.

    Epoch and stream are held in shared memory, so that persistent workers, which are copies of
    what the main process had when they started, see them change. As long as no epoch was ever
    set, the seed that the ``DataLoader`` draws for each worker at each start tells epochs apart;
    once it is set, a resumed run repeats what the uninterrupted one would have drawn.

    Example:
        >>> generator = WorkerGenerator()
        >>> generator.set_epoch(0)
        >>> torch.rand(2, generator=generator.get()).shape
        torch.Size([2])
    """

    def __init__(self) -> None:
        self._epoch_and_stream = torch.tensor([-1, 0]).share_memory_()
        self._rank_of_parent = 0
        self._key: tuple[int, ...] | None = None
        self._generator = torch.Generator()

    def set_epoch(self, epoch: int, stream: int | None = None) -> None:
        """Start new random numbers, in this process and in all workers.

        Args:
            epoch (int): Number of the epoch, counted from 0.
            stream (int, optional): A number that sets apart several users of the same seed, such
                as the datasets of a concatenation. Defaults to None, which leaves it as it is (0
                at first).

        Raises:
            ConfigError: If ``epoch`` or ``stream`` is negative.
        """
        if epoch < 0 or (stream is not None and stream < 0):
            raise ConfigError(f'epoch and stream must be >= 0, but got {epoch} and {stream}.')
        self._epoch_and_stream[0] = epoch
        if stream is not None:
            self._epoch_and_stream[1] = stream

    @property
    def epoch(self) -> int | None:
        """int, optional: Number of the epoch, counted from 0; None as long as none was set."""
        epoch = int(self._epoch_and_stream[0])
        return None if epoch < 0 else epoch

    def get(self) -> torch.Generator:
        """The generator of the process that asks.

        Returns:
            torch.Generator: On the CPU; new if seed, worker, rank, epoch or stream changed.
        """
        epoch, stream = self._epoch_and_stream.tolist()
        worker = get_worker_info()
        worker_id = 0 if worker is None else worker.id + 1
        # A worker started by spawn knows of no process group: its rank came with the pickle.
        rank = get_rank() or self._rank_of_parent
        key = (torch.initial_seed(), worker_id, rank, epoch + 1, stream)
        if epoch < 0 and worker is not None:
            key += (worker.seed,)
        if key != self._key:
            self._key = key
            seed = np.random.SeedSequence([number % 2**64 for number in key])
            self._generator = torch.Generator()
            self._generator.manual_seed(int(seed.generate_state(1, np.uint64)[0]))
        return self._generator

    def __getstate__(self) -> dict:
        rank = get_rank() or self._rank_of_parent
        return dict(epoch_and_stream=self._epoch_and_stream, rank=rank)

    def __setstate__(self, state: dict) -> None:
        self.__init__()
        # A deep copy or a plain pickle leaves shared memory, torch's own pickle does not.
        self._epoch_and_stream = state['epoch_and_stream'].share_memory_()
        self._rank_of_parent = state['rank']
