# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Units of a training run's progress, and where one continues that counts otherwise."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from mmengine.dist import get_world_size

from mmmokd.utils import is_epoch_based

from ..optimizers.wrappers import accumulative_counts

RECORD = 'run_counts'  # in the `meta` of a checkpoint


@dataclass(frozen=True)
class RunCounts:
    """The units of a training run's progress; None for what a checkpoint does not tell.

    Args:
        by_epoch (bool, optional): Whether the train loop counts epochs.
        batch_size (int, optional): Images of one process and iteration.
        processes (int, optional): Number of processes.
        accumulative_counts (int, optional): Iterations of an optimizer step.
        images (int, optional): Images of the training set.
        epoch_length (int, optional): Iterations of an epoch.
        max_epochs (int, optional): Epochs of the run; None without epochs.
        max_iters (int, optional): Iterations of the run.
    """

    by_epoch: bool | None = None
    batch_size: int | None = None
    processes: int | None = None
    accumulative_counts: int | None = None
    images: int | None = None
    epoch_length: int | None = None
    max_epochs: int | None = None
    max_iters: int | None = None

    @classmethod
    def of_run(cls, runner) -> 'RunCounts':
        """The counts of a run.

        Args:
            runner (Runner): A runner whose train loop and optimizers are built.

        Returns:
            RunCounts: The counts.
        """
        loader = runner.train_dataloader
        dataset = loader.dataset
        by_epoch = is_epoch_based(runner)
        return cls(
            by_epoch=by_epoch,
            # Not the loader's own batch size, which is None where the config has a batch sampler.
            batch_size=getattr(loader.batch_sampler, 'batch_size', None),
            processes=get_world_size(),
            accumulative_counts=accumulative_counts(runner.optim_wrapper),
            images=len(dataset) if hasattr(dataset, '__len__') else None,
            epoch_length=len(loader),
            max_epochs=runner.max_epochs if by_epoch else None,
            max_iters=runner.max_iters,
        )

    @classmethod
    def of_checkpoint(cls, checkpoint: dict[str, Any], cfg: dict[str, Any]) -> 'RunCounts':
        """The counts of the run that wrote a checkpoint.

        Args:
            checkpoint (dict): A checkpoint; where it has no record of its counts, as those of before
                it was kept, they are what its config and its messages tell.
            cfg (dict): The config in the checkpoint, empty if there is none.

        Returns:
            RunCounts: The counts.
        """
        meta = checkpoint['meta']
        if isinstance(record := meta.get(RECORD), dict):
            return cls(**{field.name: record.get(field.name) for field in fields(cls)})
        infos = checkpoint.get('message_hub', {}).get('runtime_info', {})
        by_epoch = _loop_counts_epochs(cfg.get('train_cfg') or {})
        max_epochs, max_iters = infos.get('max_epochs'), infos.get('max_iters')
        epoch_length = None
        if by_epoch is not False:
            if max_epochs and max_iters:
                epoch_length = max_iters // max_epochs
            elif meta['epoch'] and meta['iter'] % meta['epoch'] == 0:
                epoch_length = meta['iter'] // meta['epoch']
        return cls(
            by_epoch=by_epoch,
            batch_size=(cfg.get('train_dataloader') or {}).get('batch_size'),
            processes=len(cfg['gpu_ids']) if cfg.get('gpu_ids') else None,
            accumulative_counts=(cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1)
            if cfg
            else None,
            epoch_length=epoch_length,
            max_epochs=max_epochs if by_epoch else None,
            max_iters=max_iters,
        )

    @property
    def iteration_images(self) -> int | None:
        """int, optional: Images of all processes in an iteration."""
        return self.batch_size and self.processes and self.batch_size * self.processes

    @property
    def step_images(self) -> int | None:
        """int, optional: Images of an optimizer step."""
        images = self.iteration_images
        return images and self.accumulative_counts and images * self.accumulative_counts

    def record(self) -> dict[str, Any]:
        """Select what is kept in a checkpoint.

        Returns:
            dict: Plain values by name.
        """
        return asdict(self)


def _loop_counts_epochs(train_cfg: dict[str, Any]) -> bool | None:
    if 'by_epoch' in train_cfg:
        return bool(train_cfg['by_epoch'])
    kind = str(train_cfg.get('type', ''))
    if 'IterBased' in kind:
        return False
    return True if 'EpochBased' in kind else None


@dataclass(frozen=True)
class Position:
    """Position of a run.

    Args:
        epoch (int): Epochs completed.
        iter (int): Iterations completed.
        batches (int): Of these, iterations of the epoch that has begun. Defaults to 0.
    """

    epoch: int
    iter: int
    batches: int = 0


def position_in(new: RunCounts, old: RunCounts, epoch: int, iteration: int) -> Position:
    """Find where a run continues from a checkpoint of one that may have counted otherwise.

    A run in epochs continues at the same share of the same epoch, rounded down to a whole batch; an
    iteration-based one where it has seen as many images, rounded to a whole optimizer step.

    Args:
        new (RunCounts): Of the run that continues.
        old (RunCounts): Of the run that wrote the checkpoint. Where it does not tell an epoch's
            length, the checkpoint counts as one of an epoch's end.
        epoch (int): Epochs completed, in the checkpoint.
        iteration (int): Iterations completed, in the checkpoint.

    Returns:
        Position: In the new counts; that of the checkpoint where these are the same.
    """
    if new.by_epoch:
        length = old.epoch_length or 1
        batches = iteration - epoch * length if old.epoch_length else 0
        # The epoch is what counts: a run resumed by other code may have lost count of iterations.
        if not 0 <= batches <= length:
            batches = 0
        if batches == length:
            epoch, batches = epoch + 1, 0
        batches = batches * new.epoch_length // length
        return Position(epoch, epoch * new.epoch_length + batches, batches)
    before = (old.batch_size or new.batch_size, old.processes or new.processes)
    if None in before or before[0] * before[1] == new.iteration_images:
        return Position(epoch, iteration)
    steps = round(iteration * before[0] * before[1] / new.step_images)
    return Position(epoch, max(steps, min(iteration, 1)) * new.accumulative_counts)
