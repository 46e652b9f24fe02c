# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import math

import torch
from mmengine.hooks import Hook
from torch import nn

from mmmokd.registry import HOOKS
from mmmokd.utils.errors import ConfigError
from mmmokd.utils.schedules import cosine_schedule
from mmmokd.utils.state_dict import name_some

from ..branches import get_branches
from ..optimizers.wrappers import accumulative_counts, step_count


@HOOKS.register_module()
class EMATeacherHook(Hook):
    """Updates every branch's EMA teacher after each optimizer step: t <- m t + (1 - m) s.

    Parameters only, paired by name: a teacher's batch norms keep statistics of its own batches, and
    what a student has beyond its teacher, or shares with it, stays out. A branch without a teacher
    (``ema=False``) or without a student (``frozen=True``) has nothing to move. The momentum m rises by a
    cosine over the optimizer steps of the run. Under gradient accumulation teachers move with the
    optimizer, not with the micro-batch.

    Args:
        base_momentum (float): Teacher's share m at the first step, as DINO, BYOL and MOKD write it.
            Defaults to 0.996.
        end_momentum (float): Its value at the end of the run. Defaults to 1.0.

    Raises:
        ConfigError: If a momentum is not in [0.5, 1].
    """

    priority = 'NORMAL'

    def __init__(self, base_momentum: float = 0.996, end_momentum: float = 1.0) -> None:
        for name, value in dict(base_momentum=base_momentum, end_momentum=end_momentum).items():
            if not 0.5 <= value <= 1:
                raise ConfigError(
                    f'{name} is the share of the old teacher, at least 0.5 and at most 1 (0.996 in '
                    f"the paper), but got {value}; mmpretrain's CosineEMA counts the new share, "
                    '1 - momentum'
                )
        self.base_momentum = base_momentum
        self.end_momentum = end_momentum

    def before_train(self, runner) -> None:
        """Pair the parameters once; they stay the same objects for the whole run.

        Raises:
            ConfigError: If the model has no branches.
            ConfigError: If a teacher has a parameter that its student has not.
        """
        self._teachers: list[nn.Parameter] = []
        self._students: list[nn.Parameter] = []
        for name, branch in get_branches(runner.model, type(self).__name__).items():
            if branch.student is None or branch.teacher is None:
                continue
            students = dict(branch.student.named_parameters())
            teachers = dict(branch.teacher.named_parameters())
            if missing := [key for key in teachers if key not in students]:
                raise ConfigError(
                    f'branch {name}: the teacher has parameters that its student has not: '
                    f'{name_some(missing)}'
                )
            # What both share, as a frozen backbone, has nowhere to move.
            moved = [key for key in teachers if teachers[key] is not students[key]]
            self._teachers += (teachers[key] for key in moved)
            self._students += (students[key] for key in moved)
        if not self._teachers:
            runner.logger.info('EMATeacherHook: no branch has a teacher beside a student to move.')

    @torch.no_grad()
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Move the teachers if the iteration ended in an optimizer step."""
        optim_wrapper = runner.optim_wrapper
        if not self._teachers or not optim_wrapper.should_update():
            return
        momentum = cosine_schedule(
            step=step_count(optim_wrapper) - 1,
            max_steps=math.ceil(runner.max_iters / accumulative_counts(optim_wrapper)),
            start=self.base_momentum,
            end=self.end_momentum,
        )
        # One pass over the weights: t + (1 - m) (s - t).
        torch._foreach_lerp_(self._teachers, self._students, 1 - momentum)
        runner.message_hub.update_scalar('train/ema_momentum', momentum)
