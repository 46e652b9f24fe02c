# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import logging
import math
from typing import Any

from mmengine.logging import print_log
from mmengine.optim.scheduler.param_scheduler import INF, _ParamScheduler

from mmmokd.registry import PARAM_SCHEDULERS
from mmmokd.utils.errors import ConfigError
from mmmokd.utils.schedules import warmup_cosine_schedule

from ..optimizers.wrappers import accumulative_counts


@PARAM_SCHEDULERS.register_module()
class WarmupCosineParamScheduler(_ParamScheduler):
    """Linear warm-up and cosine of a parameter of one part of a branch, per optimizer step.

    Unlike mmengine's chainable schedulers it computes each value from the step alone, counts
    optimizer steps also under gradient accumulation, moves only the groups of its part (see
    :class:`BranchOptimWrapperConstructor`), and leaves groups without weight decay without. A
    resumed run follows its config, also where that has changed: the checkpoint says only how many
    iterations are done.

    Args:
        optimizer (OptimWrapper): A branch's optimizer wrapper.
        param_name (str): ``'lr'`` or ``'weight_decay'``.
        final (float): Value at the end. A learning rate is never raised towards it: where the peak
            (after scaling to the batch size) is below, it stays at the peak, and the log says so.
        warmup (int): Length of the linear warm-up from 0, in epochs with ``by_epoch``, else in
            iterations. Defaults to 0.
        base_length (int, optional): Length of a run, in the same unit, that the warm-up is for: in
            a shorter run it is shorter in proportion, and the log says so. Defaults to None: it is
            the same in every run.
        part (str): Which parameter groups: ``'main'``, or a part that has settings of its own.
            Defaults to ``'main'``.
        begin (int): Must be 0: the schedule spans the run. Defaults to 0.
        end (int): Length of the schedule, in the unit of ``warmup``; the Runner fills in the length
            of the run.
        by_epoch (bool): Whether ``warmup`` and ``end`` are epochs; needs
            ``convert_to_iter_based=True`` in the config. Defaults to False.
        **kwargs: See mmengine's ``_ParamScheduler``.

    Raises:
        ConfigError: If no group has the part, the warm-up is longer than the run, the length is not
            known, or the scheduler would step by epoch.
    """

    def __init__(
        self,
        optimizer,
        param_name: str,
        final: float,
        warmup: int = 0,
        base_length: int | None = None,
        part: str = 'main',
        begin: int = 0,
        end: int = INF,
        by_epoch: bool = False,
        **kwargs,
    ) -> None:
        parts = [group.get('part', 'main') for group in optimizer.param_groups]
        if part not in parts:
            raise ConfigError(
                f'no parameter group has part={part!r}; there are {sorted(set(parts))}'
            )
        if by_epoch:
            raise ConfigError(
                f'the {param_name} schedule steps with the optimizer: with by_epoch=True set '
                'convert_to_iter_based=True'
            )
        if base_length is not None and end < base_length:
            warmup = self._shortened(warmup, end, base_length)
        if begin != 0 or end >= INF or not 0 <= warmup <= end:
            raise ConfigError(
                f'the {param_name} schedule needs begin=0 and 0 <= warmup <= end, the length of the '
                f'run, but got begin={begin}, warmup={warmup}, end={end} (iterations)'
            )
        self.final = final
        self.part = part
        self.accumulative_counts = accumulative_counts(optimizer)
        self.warmup_steps = math.ceil(warmup / self.accumulative_counts)
        self.max_steps = math.ceil(end / self.accumulative_counts)
        self._warned = False
        super().__init__(optimizer, param_name, begin=begin, end=end, by_epoch=False, **kwargs)

    @classmethod
    def build_iter_from_epoch(
        cls,
        *args,
        epoch_length: int,
        warmup: float = 0,
        base_length: int | None = None,
        end: int = INF,
        by_epoch: bool = True,
        **kwargs,
    ):
        """Build from epochs; mmengine calls it for ``convert_to_iter_based=True``.

        Args:
            *args: See the class.
            epoch_length (int): Iterations in an epoch.
            warmup (float): In epochs. Defaults to 0.
            base_length (int, optional): In epochs. Defaults to None.
            end (int): In epochs.
            by_epoch (bool): Must be True.
            **kwargs: See the class.

        Returns:
            WarmupCosineParamScheduler: The scheduler.

        Raises:
            ConfigError: If ``by_epoch`` is not set, an epoch has no iteration, or the warm-up is
                longer than the run.
        """
        if not by_epoch:
            raise ConfigError('convert_to_iter_based=True needs by_epoch=True')
        if epoch_length < 1:
            # The Runner builds schedules before it calls the hook that counts the images.
            raise ConfigError(
                'an epoch has no iteration, for train_dataloader makes no batch: with drop_last=True '
                'the training set needs at least batch_size x processes images'
            )
        if warmup > end and base_length is None:
            raise ConfigError(
                f'the warm-up of {warmup} epochs is longer than the run of {end}: shorten `warmup` of '
                'the schedules in param_scheduler, or give them a `base_length`, the epochs that it is '
                'for, or train for longer'
            )
        return cls(
            *args,
            warmup=round(warmup * epoch_length),
            base_length=base_length and base_length * epoch_length,
            end=INF if end >= INF else end * epoch_length,
            by_epoch=False,
            **kwargs,
        )

    @staticmethod
    def _shortened(warmup: int, length: int, base_length: int) -> int:
        shorter = round(warmup * length / base_length)
        if shorter < warmup:
            # A warning, of which the log shows one, though every schedule says it.
            print_log(
                f'The warm-up of {warmup} iterations is for a run of {base_length}: in this one of '
                f'{length} it takes {shorter}.',
                logger='current',
                level=logging.WARNING,
            )
        return shorter

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Args:
            state_dict (dict): Of the scheduler that was; only the iterations done are taken.
        """
        if state_dict['end'] != self.end:
            # A warning, of which the log shows one, though every schedule says it.
            print_log(
                f'The checkpoint is of a run of {state_dict["end"]} iterations, and this one has '
                f'{self.end}: its schedules follow the new length.',
                logger='current',
                level=logging.WARNING,
            )
        self._global_step = state_dict['_global_step']
        # It does not count the step after the last; in a longer run that is one like the others.
        self.last_step = min(self._global_step, self.end - 1)
        self._last_value = self._get_value()
        for group, value in zip(self.optimizer.param_groups, self._last_value, strict=True):
            group[self.param_name] = value

    def _get_value(self) -> list[float]:
        step = self.last_step // self.accumulative_counts
        return [
            self._scheduled(step, base) if self._moves(group, base) else group[self.param_name]
            for group, base in zip(self.optimizer.param_groups, self.base_values, strict=True)
        ]

    def _moves(self, group: dict, base: float) -> bool:
        undecayed = self.param_name == 'weight_decay' and base == 0
        return group.get('part', 'main') == self.part and not undecayed

    def _scheduled(self, step: int, base: float) -> float:
        final = self.final
        if self.param_name == 'lr' and base < final:
            # Not at once: before the first step a peak may still be scaled.
            if self.last_step > 0 and not self._warned:
                self._warned = True
                print_log(
                    f'The peak learning rate {base:g} of {self.part!r} is below its final value '
                    f'{final:g}: it stays at the peak after the warm-up.',
                    logger='current',
                )
            final = base
        return warmup_cosine_schedule(step, self.max_steps, self.warmup_steps, base, final)
