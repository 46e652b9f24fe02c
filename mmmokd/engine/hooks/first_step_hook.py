# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import time

import torch
from mmengine.hooks import Hook, LoggerHook

from mmmokd.registry import HOOKS


@HOOKS.register_module()
class FirstStepHook(Hook):
    """Logs what a run waits for before its first step, how long that took, and the step's losses.

    mmengine's ``LoggerHook`` writes its first line after ``interval`` iterations. Until then nobody
    knows whether the run computes, or with what loss. The seconds are those of the first batch, from
    the start of the data workers, and of the first step, until the device has computed it.
    """

    # After the hooks that act on the iteration, the one that logs among them.
    priority = 'VERY_LOW'

    def before_train(self, runner) -> None:
        """Begin again: a resumed run waits as well."""
        self._began: float | None = None
        self._done = False

    def before_train_epoch(self, runner) -> None:
        """Log what is to be waited for, when the first batch is about to be loaded."""
        if self._began is None:
            self._began = time.perf_counter()
            runner.logger.info(f'Waiting for {describe_waits(runner.train_dataloader)}.')

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Note when the first batch has come."""
        if not self._done:
            self._loaded = time.perf_counter()

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Log the first step.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Batch of the epoch.
            outputs (dict, optional): Losses of the step. Defaults to None.
        """
        if self._done:
            return
        self._done = True
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        runner.logger.info(
            f'First step after {now - self._began:.1f} s: {self._loaded - self._began:.1f} s for the '
            f'first batch, {now - self._loaded:.1f} s for the step.'
        )
        if not any(_logs(hook, runner, batch_idx) for hook in runner.hooks):
            runner.logger.info(self._line(runner, batch_idx))

    @staticmethod
    def _line(runner, batch_idx: int) -> str:
        """The line that LoggerHook would write; what is left is not foretold by the first step."""
        eta = runner.message_hub.pop_info('eta')
        _, line = runner.log_processor.get_log_after_iter(runner, batch_idx, 'train')
        if eta is not None:
            runner.message_hub.update_info('eta', eta)
        return line


def _logs(hook: Hook, runner, batch_idx: int) -> bool:
    return isinstance(hook, LoggerHook) and (
        hook.every_n_inner_iters(batch_idx, hook.interval) or len(runner.train_dataloader) == 1
    )


def describe_waits(dataloader) -> str:
    """Describe what comes before the end of the first step.

    Args:
        dataloader (DataLoader): The loader of the training set.

    Returns:
        str: In words, for the log.
    """
    workers = dataloader.num_workers
    batch = 'the first batch'
    if workers:
        batch += f', for which {workers} data worker{"s start" if workers > 1 else " starts"},'
    step = 'the first step'
    if torch.cuda.is_available() and torch.backends.cudnn.benchmark:
        step += ', in which cuDNN tries its algorithms (env_cfg.cudnn_benchmark)'
    return f'{batch} and {step}'
