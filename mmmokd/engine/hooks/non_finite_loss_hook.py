# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import CheckpointHook, Hook
from torch import Tensor

from mmmokd.registry import HOOKS
from mmmokd.utils import get_ori_model
from mmmokd.utils.errors import ConfigError, NonFiniteLossError

from .checkpoint_hook import POINTER


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Stops a run whose loss is not finite, before a checkpoint of it is saved.

    After each iteration, before teachers move and anything is logged or saved, every loss term is
    checked, at the cost of one wait for the device; all processes stop together. Weights are
    checked before a checkpoint takes an older one's place: the last checkpoint is a good one. A
    step that a gradient scaler skips has a finite loss and passes.
    """

    # Before the hooks that log, move the teachers and save.
    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._by_design: set[str] | None = None

    def before_train(self, runner) -> None:
        """Remember which tensors are not finite by design, as masks of minus infinity are."""
        self._by_design = set(non_finite_names(get_ori_model(runner.model).state_dict()))

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Check the losses of the iteration, and the weights if a checkpoint is due.

        Raises:
            ConfigError: If the model gave no loss.
            FloatingPointError: If a loss, or a weight, is not finite.
        """
        losses = {key: value for key, value in (outputs or {}).items() if 'loss' in key}
        if not losses:
            raise ConfigError(f'the train step gave no loss, but {sorted(outputs or {})}')
        bad = torch.stack([~value.detach().isfinite().all() for value in losses.values()]).int()
        # A rank may be alone with a bad batch: the others must not be left waiting for it.
        all_reduce(bad, op='max')
        if bad.any():
            terms = [name for name, is_bad in zip(losses, bad.tolist(), strict=True) if is_bad]
            self._stop(runner, runner.iter + 1, describe_losses(losses, terms))
        if any(is_save_due(hook, runner) for hook in runner.hooks):
            self._check_weights(runner, runner.iter + 1)

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


def describe_losses(losses: dict[str, Tensor], terms: list[str]) -> str:
    """Find the loss terms that are not finite.

    Args:
        losses (dict[str, Tensor]): This process's loss terms.
        terms (list[str]): Names of those that are not finite in some process.

    Returns:
        str: The terms and their values; the total only where nothing else is to be named.
    """
    named = [name for name in terms if name != 'loss'] or terms
    values = [(name, losses[name].detach().float().mean()) for name in named]
    parts = [
        f'{name} = {value.item()}' + ('' if not value.isfinite() else ' (not finite elsewhere)')
        for name, value in values
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
