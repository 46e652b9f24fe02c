# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Report the progress of an interrupted training."""

from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmmokd.cli.stop_signals import raise_again, this_command, where
from mmmokd.engine.resume.find import find_resume_checkpoint
from mmmokd.utils.runner import is_epoch_based


class PositionHook(Hook):
    """Tracks the progress of a training, for :func:`resumable`."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.position = ' before the first iteration'

    def before_train_iter(self, runner: Runner, **kwargs) -> None:
        """End, if an interruption was lost."""
        raise_again()

    def before_val_iter(self, runner: Runner, **kwargs) -> None:
        """End, if an interruption was lost."""
        raise_again()

    def after_train_iter(self, runner: Runner, batch_idx: int, **kwargs) -> None:
        """Note the iteration, as the log counts it."""
        if is_epoch_based(runner):
            count = len(runner.train_dataloader)
            position = f'epoch {runner.epoch + 1}, iteration {batch_idx + 1} of {count}'
        else:
            position = f'iteration {runner.iter + 1} of {runner.max_iters}'
        self.position = f' after {position}'

    def after_train_epoch(self, runner: Runner) -> None:
        """Note the epoch."""
        if is_epoch_based(runner):
            self.position = f' after epoch {runner.epoch + 1}'


@contextmanager
def resumable(work_dir: str) -> Iterator[PositionHook]:
    """Say of a training that is interrupted how far it has come, and how to continue with it.

    Args:
        work_dir (str): Where it writes its checkpoints.

    Yields:
        PositionHook: To be registered in the Runner.
    """
    hook = PositionHook()
    with where(lambda: hook.position + how_to_resume(work_dir)):
        yield hook


def how_to_resume(work_dir: str) -> str:
    """Say by which command to continue with a training.

    Args:
        work_dir (str): Where it wrote its checkpoints.

    Returns:
        str: The rest of a sentence.
    """
    try:
        newest = find_resume_checkpoint(work_dir)
    except ValueError:
        newest = None
    if newest is None:
        return f', before the first checkpoint; start again with: {this_command(resume=False)}'
    return f', newest checkpoint {newest}; resume with: {this_command(resume=True)}'
