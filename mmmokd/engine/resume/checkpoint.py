# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Makes a checkpoint one of the run that is to continue from it."""

from typing import Any

from mmengine.hooks import CheckpointHook
from mmengine.model import BaseAveragedModel
from mmengine.optim import OptimWrapper, _ParamScheduler
from torch import Tensor

from mmmokd.utils import get_ori_model
from mmmokd.utils.errors import CheckpointError

from ..optimizers.wrappers import iter_wrappers
from ..schedulers.replay import has_same_settings, replay_schedules
from .counts import Position, RunCounts

# Of an optimizer's groups; more are what schedules move. The rest may be state, as with Prodigy.
SETTINGS = ('lr', 'weight_decay', 'momentum', 'betas')
# An optimizer that has one of these cannot continue from one that has not.
KINDS = ('momentum', 'betas', 'alpha', 'rho')
# Counts that schedules depend on.
SCHEDULED_BY = ('accumulative_counts', 'epoch_length', 'max_iters', 'iteration_images')


def check_optimizers(optim_wrapper: OptimWrapper, saved: dict[str, Any] | None) -> None:
    """Make sure that optimizers can continue from their state in a checkpoint.

    Args:
        optim_wrapper (OptimWrapper): Of the run.
        saved (dict, optional): The state; None if the checkpoint has none.

    Raises:
        CheckpointError: If the checkpoint is of other optimizers, or of other parameters in them.
    """
    if saved is None:
        return
    own = dict(iter_wrappers(optim_wrapper))
    saved = {'': saved} if 'param_groups' in saved else saved
    if own.keys() == saved.keys():
        faults = [_optimizer_fault(name, own[name].optimizer, saved[name]) for name in own]
        fault = next(filter(None, faults), None)
    else:
        sides = (', '.join(names) or 'one without a name' for names in (saved, own))
        fault = 'it has optimizers of {}, and this run of {}'.format(*sides)
    if fault:
        raise CheckpointError(
            f'cannot resume, for the checkpoint is of another model or optimizer: {fault}. To begin '
            'with its weights, give --cfg-options load_from=CHECKPOINT instead of --resume'
        )


def _optimizer_fault(name: str, optimizer: Any, saved: dict[str, Any]) -> str | None:
    sizes, saved_sizes = (
        [len(group['params']) for group in groups]
        for groups in (optimizer.param_groups, saved['param_groups'])
    )
    kind = type(optimizer).__name__ + f' of {name}' * bool(name)
    if sizes != saved_sizes:
        return f'{kind} has groups of {sizes} parameters, and there they are of {saved_sizes}'
    known = saved['param_groups'][0]
    lacks = [key for key in KINDS if key in optimizer.defaults and key not in known]
    return f'{kind} needs {" and ".join(lacks)}, which was missing' if lacks else None


def needs_schedules(runner, checkpoint: dict[str, Any], old: RunCounts, new: RunCounts) -> bool:
    """Check whether the schedules in a checkpoint are not those of the run.

    Args:
        runner (Runner): The runner.
        checkpoint (dict): The checkpoint.
        old (RunCounts): Of the run that wrote it.
        new (RunCounts): Of the run.

    Returns:
        bool: True if counts that they depend on are known to differ, or there are others, with
        other settings, or none.
    """
    pairs = [(getattr(old, name), getattr(new, name)) for name in SCHEDULED_BY]
    if any(None not in pair and pair[0] != pair[1] for pair in pairs):
        return True
    saved = checkpoint.get('param_schedulers') or []
    saved = saved if isinstance(saved, dict) else {'': saved}
    own = _schedulers(runner)
    return any(
        len(own.get(name, ())) != len(saved.get(name, ()))
        or not all(map(has_same_settings, own[name], saved[name]))
        for name in {name for side in (own, saved) for name, listed in side.items() if listed}
    )


def _schedulers(runner) -> dict[str, list[_ParamScheduler]]:
    """A run's schedulers by the name of their optimizer, see :func:`iter_wrappers`."""
    schedulers = runner.param_schedulers or []
    return schedulers if isinstance(schedulers, dict) else {'': schedulers}


def follow_config(runner, checkpoint: dict[str, Any], position: Position) -> None:
    """Give a checkpoint the schedules and settings that a run with this config has at a place.

    Args:
        runner (Runner): With schedulers at their first step.
        checkpoint (dict): Changed in place.
        position (Position): The place.

    Raises:
        CheckpointError: If a schedule cannot be computed.
    """
    schedulers = _schedulers(runner)
    counts = RunCounts.of_run(runner)
    for listed in schedulers.values():
        replay_schedules(listed, position.iter, counts.epoch_length if counts.by_epoch else None)
    if runner.param_schedulers is not None:
        states = {name: [s.state_dict() for s in listed] for name, listed in schedulers.items()}
        single = not isinstance(runner.param_schedulers, dict)
        checkpoint['param_schedulers'] = states[''] if single else states
    saved = checkpoint.get('optimizer') or {}
    for name, wrapper in iter_wrappers(runner.optim_wrapper):
        state = saved.get(name) if name else saved
        if not state:
            continue
        keys = {*SETTINGS, *(s.param_name for s in schedulers.get(name, ()))}
        keys |= {f'initial_{key}' for key in keys}
        pairs = list(zip(wrapper.optimizer.param_groups, state['param_groups'], strict=True))
        if wrapper.base_param_settings and 'base_param_settings' in state:
            pairs.append((wrapper.base_param_settings, state['base_param_settings']))
        for own, group in pairs:
            group.update({key: own[key] for key in keys & own.keys()})


def convert_counters(runner, checkpoint: dict[str, Any], position: Position) -> None:
    """Bring what else counts iterations to where the run continues.

    Args:
        runner (Runner): The runner.
        checkpoint (dict): Changed in place.
        position (Position): The place.
    """
    share = position.iter / max(checkpoint['meta']['iter'], 1)
    # The averages of mmengine and mmpretrain (EMAHook, BYOL, MoCo v3) count their own updates.
    averages = [
        checkpoint['state_dict'].get(f'{name}.steps')
        for name, module in get_ori_model(runner.model).named_modules()
        if isinstance(module, BaseAveragedModel)
    ]
    # A hook has taken its own from the checkpoint by now.
    averages += [
        hook.ema_model.steps
        for hook in runner.hooks
        if isinstance(getattr(hook, 'ema_model', None), BaseAveragedModel)
    ]
    for steps in averages:
        if isinstance(steps, Tensor):
            steps.fill_(max(round(int(steps) * share), min(int(steps), 1)))  # 0: not yet begun
    infos = checkpoint.get('message_hub', {}).get('runtime_info', {})
    by_iter = any(isinstance(hook, CheckpointHook) and not hook.by_epoch for hook in runner.hooks)
    if by_iter and 'keep_ckpt_ids' in infos:
        # Else a checkpoint to be written could take the name of one that is about to be removed.
        kept = [number for number in infos['keep_ckpt_ids'] if number <= position.iter]
        infos['keep_ckpt_ids'] = kept
