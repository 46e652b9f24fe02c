# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import inspect
import warnings
from collections.abc import Sequence
from typing import Any

from mmengine.optim import _ParamScheduler

from mmmokd.utils.errors import CheckpointError

from .warmup_cosine_param_scheduler import WarmupCosineParamScheduler

# Arguments of a scheduler that say nothing of what it does.
_NO_SETTINGS = {'self', 'optimizer', 'last_step', 'verbose', 'args', 'kwargs'}


def has_same_settings(scheduler: _ParamScheduler, state: dict[str, Any]) -> bool:
    """Check whether the state of a scheduler is of one with the same settings and starting values.

    Args:
        scheduler (_ParamScheduler): As its config says.
        state (dict): Of a scheduler, as a checkpoint has it.

    Returns:
        bool: False if an argument that the scheduler keeps, or what it starts from, differs.
    """
    own = scheduler.state_dict()
    arguments = {
        name
        for cls in type(scheduler).__mro__
        if '__init__' in vars(cls) and cls is not object
        for name in inspect.signature(cls.__init__).parameters
    }
    kept = (arguments - _NO_SETTINGS | {'base_values'}) & own.keys()
    return all(name in state and state[name] == own[name] for name in kept)


def replay_schedules(
    schedulers: Sequence[_ParamScheduler], iters: int, epoch_length: int | None
) -> None:
    """Bring new schedulers, and what they schedule, to where a run would have them.

    Args:
        schedulers (Sequence[_ParamScheduler]): All of one optimizer, at their first step.
        iters (int): Iterations completed.
        epoch_length (int, optional): Iterations of an epoch; None for a run without epochs.

    Raises:
        CheckpointError: If a schedule goes by what a validation measures, and not by steps alone.
    """
    measured = [s for s in schedulers if getattr(s, 'need_val_args', False)]
    if measured:
        raise CheckpointError(
            f'the schedule {type(measured[0]).__name__} depends on past metrics and cannot be '
            'computed for other counts or settings: resume with those of the checkpoint, or begin '
            'with its weights by --cfg-options load_from=CHECKPOINT instead of --resume'
        )
    if all(isinstance(s, WarmupCosineParamScheduler) for s in schedulers):
        for scheduler in schedulers:
            scheduler.load_state_dict(dict(scheduler.state_dict(), _global_step=iters))
        return
    verbose = [scheduler.verbose for scheduler in schedulers]
    # mmengine's chainable schedules compute a value from the last one: step by step.
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', '.*`optimizer.step', UserWarning)
        for scheduler in schedulers:
            scheduler.verbose = False
        for done in range(1, iters + 1):
            for scheduler in schedulers:
                if not scheduler.by_epoch:
                    scheduler.step()
            if epoch_length and done % epoch_length == 0:
                for scheduler in schedulers:
                    if scheduler.by_epoch:
                        scheduler.step()
    for scheduler, value in zip(schedulers, verbose, strict=True):
        scheduler.verbose = value
