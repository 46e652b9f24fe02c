# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import itertools
from collections.abc import Iterator
from typing import Any

from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import BaseLoop, Runner
from torch.utils.data import BatchSampler

from mmmokd.registry import HOOKS
from mmmokd.utils.errors import CheckpointError

from ..resume import (
    RECORD,
    Position,
    RunCounts,
    check_optimizers,
    convert_counters,
    deciding_changes,
    describe_resume,
    follow_config,
    needs_schedules,
    position_in,
    read_old_config,
    sets_rates,
)
from .accumulated_lr_hook import AccumulatedLRHook


@HOOKS.register_module()
class ResumeHook(Hook):
    """Resumes a run at the same position, also with another batch size or number of processes.

    mmengine resumes at the checkpoint's number of iterations. With other batches, processes or
    images, that number stands for another part of the run. This hook keeps what a run counts in with
    its checkpoints and, when one is resumed,

    - puts the number of iterations to that of the same epoch or, in an iteration-based run, of the
      same number of images. All that is computed from it follows: momentum of the teachers, freezing
      of prototypes, warm-up of the collapse monitor, time left, names of checkpoints;
    - puts learning rates and all else that is scheduled to what a run with this config would have
      there, whatever the schedulers are; also where the config's rates or schedules changed;
    - continues within an epoch, where the checkpoint is of the middle of one, with its next batch;
    - says what changed in the counts and in the config.

    Where nothing of this changed, the checkpoint is taken as it is. The tools of this package add
    the hook by themselves.

    Raises:
        CheckpointError: If the checkpoint is of a run with other optimizers or another kind of loop, or
            its schedules cannot be computed.
    """

    # After CheckpointCheckHook: what is wrong with the weights is said first.
    priority = 'LOWEST'

    def __init__(self) -> None:
        self._batches_done = 0
        self._whole_sampler: Any = None

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Keep what the run counts in."""
        if trains(runner):
            checkpoint['meta'][RECORD] = RunCounts.of_run(runner).record()

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Bring the checkpoint into the counts of this run, if it is to be resumed."""
        if not (trains(runner) and runner._resume):
            return
        meta = checkpoint['meta']
        check_optimizers(runner.optim_wrapper, checkpoint.get('optimizer'))
        cfg = read_old_config(meta)
        changes = deciding_changes(cfg, runner.cfg.pretty_text)
        old, new = RunCounts.of_checkpoint(checkpoint, cfg or {}), RunCounts.of_run(runner)
        check_loops(old, new)
        position = position_in(new, old, meta['epoch'], meta['iter'])
        if type(runner.train_dataloader.batch_sampler) is not BatchSampler:
            # Which images one of another kind has drawn is not known: it restarts the epoch.
            position = Position(position.epoch, position.iter - position.batches)
        self._batches_done = position.batches
        moved = (position.epoch, position.iter) != (meta['epoch'], meta['iter'])
        rates_changed = any(map(sets_rates, changes or ()))
        if moved or rates_changed or needs_schedules(runner, checkpoint, old, new):
            follow_config(runner, checkpoint, position)
        if moved:
            convert_counters(runner, checkpoint, position)
        scales = any(isinstance(hook, AccumulatedLRHook) for hook in runner.hooks)
        for text in describe_resume(runner, old, new, meta['iter'], position, changes, scales):
            runner.logger.warning(text)
        meta['epoch'], meta['iter'] = position.epoch, position.iter

    def before_train_epoch(self, runner) -> None:
        """Leave out the batches of an epoch that were done before it was interrupted."""
        if self._batches_done:
            batches = runner.train_dataloader.batch_sampler
            self._whole_sampler = batches.sampler
            done = self._batches_done * batches.batch_size
            batches.sampler = SkipFirst(batches.sampler, done)
            self._batches_done = 0

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Let the next epoch be whole again: this one has begun to draw."""
        if self._whole_sampler is not None:
            runner.train_dataloader.batch_sampler.sampler = self._whole_sampler
            self._whole_sampler = None


class SkipFirst:
    """A sampler without its first indices; its length is that of the whole.

    Args:
        sampler (Iterable[int]): A sampler with a length.
        num_skipped (int): Number of indices left out.
    """

    def __init__(self, sampler: Any, num_skipped: int) -> None:
        self.sampler = sampler
        self.num_skipped = num_skipped

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(iter(self.sampler), self.num_skipped, None)

    def __len__(self) -> int:
        return len(self.sampler)


def trains(runner) -> bool:
    """Check whether a runner is built for training.

    Args:
        runner (Runner): Any runner.

    Returns:
        bool: False for one that only tests, and for runners that do not resume as mmengine's
        ``Runner`` does.
    """
    return (
        isinstance(runner, Runner)
        and isinstance(runner._train_loop, BaseLoop)
        and isinstance(runner.optim_wrapper, OptimWrapper)
    )


def check_loops(old: RunCounts, new: RunCounts) -> None:
    """Make sure that two runs count the same.

    Args:
        old (RunCounts): Of the checkpoint.
        new (RunCounts): Of the run that is to continue from it.

    Raises:
        CheckpointError: If one counts epochs and the other iterations.
    """
    if old.by_epoch is not None and old.by_epoch != new.by_epoch:
        before, now = ('epochs' if counts.by_epoch else 'iterations' for counts in (old, new))
        raise CheckpointError(
            f'cannot resume, for the checkpoint is of a run in {before} and this one is in {now} '
            '(train_cfg.by_epoch). To begin with its weights, give --cfg-options '
            'load_from=CHECKPOINT instead of --resume'
        )
