# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Messages for a run that continues from a checkpoint."""

from typing import Any

from mmmokd.utils.config_changes import config_changes, describe_changes
from mmmokd.weights.checkpoint_config import read_config_text

from .counts import Position, RunCounts

MAX_LINES = 10
# What of a config decides how a run continues, and what of it only says how it is run or seen, or is
# said as a count.
DECIDES = (
    'model',
    'data_preprocessor',
    'train_dataloader',
    'train_cfg',
    'optim_wrapper',
    'param_scheduler',
    'auto_scale_lr',
    'randomness',
    'default_hooks',
    'custom_hooks',
)
DECIDES_NOT = (
    'default_hooks.checkpoint',
    'default_hooks.logger',
    'default_hooks.param_scheduler',
    'default_hooks.resume',
    'default_hooks.runtime_info',
    'default_hooks.sampler_seed',
    'default_hooks.timer',
    'default_hooks.visualization',
    'optim_wrapper.accumulative_counts',
    'train_cfg.max_epochs',
    'train_cfg.max_iters',
    'train_cfg.val_begin',
    'train_cfg.val_interval',
    'train_dataloader.batch_size',
    'train_dataloader.num_workers',
    'train_dataloader.persistent_workers',
    'train_dataloader.pin_memory',
    'train_dataloader.prefetch_factor',
)
RATES = ('param_scheduler', 'auto_scale_lr')
OPTIMIZERS = {'optimizer', 'parts', 'paramwise_cfg'}  # below optim_wrapper
COUNTS = dict(
    batch_size='batch size',
    processes='processes',
    accumulative_counts='accumulative_counts',
    images='images',
    epoch_length='iterations per epoch',
    max_epochs='epochs',
)

Changes = list[tuple[str, Any, Any]]


def read_old_config(meta: dict[str, Any]) -> dict[str, Any] | None:
    """The config in a checkpoint; nothing of it is run.

    Args:
        meta (dict): Of the checkpoint. ``config``, the text of an older mmengine, is taken out of
            it: the Runner would run it, and stop with a traceback if it names other GPUs.

    Returns:
        dict, optional: The config; None if there is none that can be read.
    """
    older = meta.pop('config', None)
    try:
        return read_config_text(meta.get('cfg') or older or '') or None
    except ValueError:
        return None


def deciding_changes(old: dict[str, Any] | None, new_text: str) -> Changes | None:
    """Find the differences in a config that decide how a run continues.

    Args:
        old (dict, optional): The config of the checkpoint.
        new_text (str): That of the run, as it would be kept in a checkpoint.

    Returns:
        list[tuple[str, Any, Any]], optional: See :func:`mmmokd.utils.config_changes.config_changes`;
        None if one of the two is not known.
    """
    try:
        new = read_config_text(new_text)
    except ValueError:
        return None
    if old is None:
        return None
    parts = [{key: cfg[key] for key in DECIDES if key in cfg} for cfg in (old, new)]
    return [
        change
        for change in config_changes(*parts)
        if not any(change[0] == name or change[0].startswith(f'{name}.') for name in DECIDES_NOT)
    ]


def sets_rates(change: tuple[str, Any, Any]) -> bool:
    """Check whether a change of the config is one of what optimizers and schedules are set to.

    Args:
        change (tuple[str, Any, Any]): Of :func:`deciding_changes`.

    Returns:
        bool: True for learning rates, their schedules and the like.
    """
    first, *rest = change[0].split('.')
    return first in RATES or (first == 'optim_wrapper' and not OPTIMIZERS.isdisjoint(rest))


def describe_resume(
    runner,
    old: RunCounts,
    new: RunCounts,
    iteration: int,
    position: Position,
    changes: Changes | None,
    scales_accumulation: bool = True,
) -> list[str]:
    """Describe the differences to the run that wrote the checkpoint, and their effects.

    Args:
        runner (Runner): The runner that continues.
        old (RunCounts): Of the checkpoint.
        new (RunCounts): Of the run.
        iteration (int): Iterations completed, in the checkpoint.
        position (Position): Where the run continues.
        changes (list, optional): In the config; None if not known.
        scales_accumulation (bool): See :func:`describe_rates`. Defaults to True.

    Returns:
        list[str]: Sentences; none where all is as it was.
    """
    said = []
    counts = describe_counts(old, new)
    if counts:
        said.append(f'Resumed with other counts than those of the checkpoint: {", ".join(counts)}.')
    if old.processes is None and not new.by_epoch:
        said.append(
            'The checkpoint does not record how many processes wrote it; assumed to be as many as now, '
            f'{new.processes}.'
        )
    if position.iter != iteration or position.batches:
        where = f'after epoch {position.epoch}'
        if position.batches:
            where = f'after {position.batches} batches of epoch {position.epoch + 1}'
        said.append(
            f'The run continues {where if new.by_epoch else "after as many images"}, at iteration '
            f'{position.iter} of {new.max_iters} ({iteration} in the checkpoint).'
        )
    said += describe_rates(runner, old, new, scales_accumulation)
    said += describe_config(changes)
    said += describe_length(old, new, position)
    return said


def describe_counts(old: RunCounts, new: RunCounts) -> list[str]:
    """Describe the changes in what a run counts in.

    Args:
        old (RunCounts): Of the checkpoint.
        new (RunCounts): Of the run.

    Returns:
        list[str]: ``NAME OLD -> NEW`` of what is known to differ.
    """
    names = COUNTS if new.by_epoch else {**COUNTS, 'max_iters': 'iterations'}
    pairs = {text: (getattr(old, name), getattr(new, name)) for name, text in names.items()}
    return [
        f'{text} {before} -> {now}'
        for text, (before, now) in pairs.items()
        if before is not None and before != now
    ]


def describe_rates(runner, old: RunCounts, new: RunCounts, scales_accumulation: bool) -> list[str]:
    """Describe the learning rates with another number of images per step.

    Args:
        runner (Runner): The runner.
        old (RunCounts): Of the checkpoint.
        new (RunCounts): Of the run.
        scales_accumulation (bool): Whether ``auto_scale_lr`` counts accumulated batches.

    Returns:
        list[str]: A sentence; none if the number is the same.
    """
    before, now = old.step_images, new.step_images
    names = ('batch_size', 'processes', 'accumulative_counts')
    pairs = [(getattr(old, name), getattr(new, name)) for name in names]
    if (before and before == now) or all(None in pair or pair[0] == pair[1] for pair in pairs):
        return []
    images = f'{now} images a step, {before or "another number"} in the checkpoint'
    if (runner.auto_scale_lr or {}).get('enable'):
        # mmengine's own scaling does not know of accumulation, see AccumulatedLRHook.
        if not scales_accumulation:
            before, now = old.iteration_images, new.iteration_images
        ratio = f' (x {now / before:g})' if before else ''
        return [f'auto_scale_lr is on: learning rates follow the batch linearly{ratio}; {images}.']
    return [f'auto_scale_lr is off: learning rates stay those of the config; {images}.']


def describe_length(old: RunCounts, new: RunCounts, position: Position) -> list[str]:
    """Describe the length of the run.

    Args:
        old (RunCounts): Of the checkpoint.
        new (RunCounts): Of the run.
        position (Position): Where the run continues.

    Returns:
        list[str]: Sentences if the run is at its end or, in an iteration-based one, if it has as many
        iterations as before with other numbers of images.
    """
    said = []
    before, now = old.iteration_images, new.iteration_images
    if not new.by_epoch and old.max_iters == new.max_iters and before and before != now:
        said.append(
            f'The run still has {new.max_iters} iterations, and these are {new.max_iters * now} '
            f'images now, {new.max_iters * before} before; its schedules follow. For as many images '
            f'as before: train_cfg.max_iters={round(new.max_iters * before / now)}.'
        )
    done, length, unit = position.iter, new.max_iters, 'iterations'
    if new.by_epoch:
        done, length, unit = position.epoch, new.max_epochs, 'epochs'
    if done >= length:
        said.append(
            f'Nothing is left to train: {done} {unit} are done, and the run has {length}. To train '
            f'for longer, raise train_cfg.{"max_epochs" if new.by_epoch else "max_iters"}.'
        )
    return said


def describe_config(changes: Changes | None) -> list[str]:
    """Describe the differences in the config.

    Args:
        changes (list, optional): See :func:`deciding_changes`.

    Returns:
        list[str]: One text of at most ``MAX_LINES`` lines below its first; none without changes.
    """
    if changes is None:
        return ['The config in the checkpoint cannot be compared with that of this run.']
    if not changes:
        return []
    lines = describe_changes(changes, MAX_LINES)
    if any(key == 'randomness.seed' for key, *_ in changes):
        lines.append("(the checkpoint's seed stays)")
    return ['\n  '.join(['The config is not that of the checkpoint:', *lines])]
