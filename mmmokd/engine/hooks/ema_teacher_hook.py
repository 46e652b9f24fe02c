# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import math

import torch
from mmengine.hooks import Hook
from torch import nn

from mmmokd.registry import HOOKS
from mmmokd.utils import get_ori_model
from mmmokd.utils.errors import ConfigError

from ..schedulers import cosine_schedule


@HOOKS.register_module()
class EMATeacherHook(Hook):
    """Moves every branch's teacher after each optimizer step: t <- m t + (1 - m) s.

    Parameters only: a teacher's batch norms keep statistics of its own batches. The momentum m rises
    by a cosine over the optimizer steps of the run. Under gradient accumulation teachers move
    with the optimizer, not with the micro-batch.

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
        """Pair the parameters once; they stay the same objects for the whole run."""
        pairs = [
            (teacher, student)
            for branch in get_ori_model(runner.model).branches.values()
            if branch.ema
            for teacher, student in zip(
                branch.teacher.parameters(), branch.student.parameters(), strict=True
            )
        ]
        self._teachers: list[nn.Parameter] = [teacher for teacher, _ in pairs]
        self._students: list[nn.Parameter] = [student for _, student in pairs]

    @torch.no_grad()
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Move the teachers if the iteration ended in an optimizer step."""
        optim_wrapper = runner.optim_wrapper
        if not optim_wrapper.should_update():
            return
        counts = optim_wrapper._accumulative_counts
        momentum = cosine_schedule(
            step=math.ceil(optim_wrapper._inner_count / counts) - 1,
            max_steps=math.ceil(runner.max_iters / counts),
            start=self.base_momentum,
            end=self.end_momentum,
        )
        torch._foreach_mul_(self._teachers, momentum)
        torch._foreach_add_(self._teachers, self._students, alpha=1 - momentum)
        runner.message_hub.update_scalar('train/ema_momentum', momentum)
