# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import math
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import CheckpointHook, Hook, LoggerHook
from torch import Tensor

from mmmokd.registry import HOOKS
from mmmokd.utils import get_ori_model
from mmmokd.utils.devices import is_asynchronous, start_reading
from mmmokd.utils.errors import ConfigError, NonFiniteLossError

from .checkpoint_hook import POINTER

LAG = 1  # on a GPU, iterations that are begun before the losses of one are read


class _Check(NamedTuple):
    """Losses of an iteration on their way to the host."""

    iteration: int
    names: list[str]
    values: Tensor  # of this process, shape (number of losses,)
    read_bad: Callable[[], list[bool]]  # of any process


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Stops a run whose loss is not finite, before a checkpoint of it is saved.

    Every loss term of every iteration is checked; all processes stop together. On the CPU that is
    before anything else is done with the iteration. On a GPU the host reads, at the end of an
    iteration, whether the losses of the one before were finite: the device has the next step to
    compute already and does not wait. Before anything is logged, validated or saved, nothing is left
    to be checked. Weights are checked before a checkpoint takes an older one's place: the last
    checkpoint is a good one. A step that a gradient scaler skips has a finite loss and passes.
    """

    # Before the hooks that log, move the teachers and save.
    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._by_design: set[str] | None = None
        self._checks: deque[_Check] = deque()
        self._is_first = True

    def before_train(self, runner) -> None:
        """Remember which tensors are not finite by design, as masks of minus infinity are."""
        self._by_design = set(non_finite_names(get_ori_model(runner.model).state_dict()))
        self._checks.clear()
        self._is_first = True

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Check the losses of the iteration, or of the one before, and the weights before a save.

        Raises:
            ConfigError: If the model gave no loss.
            FloatingPointError: If a loss, or a weight, is not finite.
        """
        losses = {key: value for key, value in (outputs or {}).items() if 'loss' in key}
        if not losses:
            raise ConfigError(f'the train step gave no loss, but {sorted(outputs or {})}')
        self._checks.append(self._start(runner.iter + 1, losses))
        saves = any(is_save_due(hook, runner) for hook in runner.hooks)
        reads = saves or any(is_log_due(hook, runner, batch_idx) for hook in runner.hooks)
        reads |= self._is_first  # is logged as well
        self._is_first = False
        self._finish(
            runner, leave=LAG if is_asynchronous(self._checks[-1].values) and not reads else 0
        )
        if saves:
            self._check_weights(runner, runner.iter + 1)

    @staticmethod
    def _start(iteration: int, losses: dict[str, Tensor]) -> _Check:
        values = torch.stack([value.detach() for value in losses.values()])
        bad = (~values.isfinite()).int()
        # A rank may be alone with a bad batch: the others must not be left waiting for it.
        all_reduce(bad, op='max')
        return _Check(iteration, list(losses), values, start_reading(bad))

    def _finish(self, runner, leave: int = 0) -> None:
        """Read the checks that were started, but for the last ones."""
        while len(self._checks) > leave:
            check = self._checks.popleft()
            flags = check.read_bad()
            if any(flags):
                terms = [name for name, bad in zip(check.names, flags, strict=True) if bad]
                losses = dict(zip(check.names, check.values.tolist(), strict=True))
                self._stop(runner, check.iteration, describe_losses(losses, terms))

    def after_train_epoch(self, runner) -> None:
        """Check the weights before a checkpoint of the epoch."""
        self._check_weights(runner, runner.iter)

    def before_val(self, runner) -> None:
        """Check the weights before a checkpoint of the best."""
        if self._by_design is not None:
            self._check_weights(runner, runner.iter)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Check what is about to be written, whoever writes it.

        Raises:
            FloatingPointError: If a tensor of the model is not finite.
        """
        self._check_weights(runner, checkpoint['meta']['iter'], checkpoint['state_dict'])

    def _check_weights(
        self, runner, iteration: int, state_dict: dict[str, Tensor] | None = None
    ) -> None:
        self._finish(runner)  # a loss says more than the weights that it led to
        if state_dict is None:
            state_dict = get_ori_model(runner.model).state_dict()
        bad = [n for n in non_finite_names(state_dict) if n not in (self._by_design or ())]
        if bad:
            names = ', '.join(bad[:10]) + (', ...' if len(bad) > 10 else '')
            self._stop(
                runner,
                iteration,
                f'{len(bad)} of {len(state_dict)} tensors of the model are not finite, and no '
                f'checkpoint is written of them: {names}',
            )

    @staticmethod
    def _stop(runner, iteration: int, what: str) -> None:
        raise NonFiniteLossError(
            f'The run is stopped at iteration {iteration}: {what}. '
            f'{last_good_checkpoint(runner)} What to change: lower the learning rate or warm it up '
            'for longer, clip gradients harder, use bfloat16 instead of float16 or leave mixed '
            'precision out, and look for broken images.'
        )


def non_finite_names(state_dict: dict[str, Tensor]) -> list[str]:
    """Names of tensors with a NaN or an infinity.

    Args:
        state_dict (dict[str, Tensor]): Tensors by name, on any devices.

    Returns:
        list[str]: The names.
    """
    checks = {n: t.isfinite().all() for n, t in state_dict.items() if torch.is_floating_point(t)}
    if not checks:
        return []
    device = next(iter(checks.values())).device
    # One wait for the device, not one for each tensor.
    finite = torch.stack([check.to(device) for check in checks.values()]).tolist()
    return [name for name, is_finite in zip(checks, finite, strict=True) if not is_finite]


def describe_losses(losses: dict[str, float], terms: list[str]) -> str:
    """Find the loss terms that are not finite.

    Args:
        losses (dict[str, float]): This process's loss terms.
        terms (list[str]): Names of those that are not finite in some process.

    Returns:
        str: The terms and their values; the total only where nothing else is to be named.
    """
    named = [name for name in terms if name != 'loss'] or terms
    parts = [
        f'{name} = {losses[name]}'
        + (' (not finite elsewhere)' if math.isfinite(losses[name]) else '')
        for name in named
    ]
    return f'loss not finite: {", ".join(parts)}'


def is_save_due(hook: Hook, runner) -> bool:
    """Check whether a hook writes a checkpoint after this iteration.

    Args:
        hook (Hook): Any hook.
        runner (Runner): The runner, in ``after_train_iter``.

    Returns:
        bool: True for a ``CheckpointHook`` that counts iterations, when it is its turn.
    """
    return (
        isinstance(hook, CheckpointHook)
        and not hook.by_epoch
        and (
            hook.every_n_train_iters(runner, hook.interval, hook.save_begin)
            or (hook.save_last and hook.is_last_train_iter(runner))
        )
    )


def is_log_due(hook: Hook, runner, batch_idx: int) -> bool:
    """Check whether a hook writes to the log after this iteration.

    Args:
        hook (Hook): Any hook.
        runner (Runner): The runner, in ``after_train_iter``.
        batch_idx (int): The batch of the epoch.

    Returns:
        bool: True for a ``LoggerHook``, when it is its turn or an epoch ends.
    """
    return isinstance(hook, LoggerHook) and (
        hook.every_n_inner_iters(batch_idx, hook.interval)
        or hook.end_of_epoch(runner.train_dataloader, batch_idx)
    )


def last_good_checkpoint(runner) -> str:
    """Find the checkpoint to continue from.

    Args:
        runner (Runner): The runner.

    Returns:
        str: A sentence with the last checkpoint and how to resume from it.
    """
    note = Path(runner.work_dir, POINTER)
    path = note.read_text().strip() if note.is_file() else None
    if path is None and runner._resume:
        path = runner._load_from
    if path is None:
        return 'No checkpoint was written yet: start again.'
    if '://' not in path and not Path(path).exists():
        return f'The last good checkpoint was {path}, but it does not exist any more.'
    return f'The last good checkpoint is {path}: continue from it with "--resume {path}".'
