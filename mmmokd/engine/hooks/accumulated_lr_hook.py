# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator

from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper

from mmmokd.registry import HOOKS

from ..optimizers.wrappers import accumulative_counts, iter_wrappers


@HOOKS.register_module()
class AccumulatedLRHook(Hook):
    """Scales learning rates by gradient accumulation.

    mmengine scales learning rates by batch size x processes over ``base_batch_size``. Under
    gradient accumulation a step takes ``accumulative_counts`` times as many images: before the
    run this hook scales the rates by that factor too. Without accumulation, or with
    ``auto_scale_lr`` off, it changes nothing.

    Where an epoch is not a multiple of ``accumulative_counts`` batches, a step continues in the next
    epoch; a run resumed there has lost the first part of that step's gradient (mmengine warns).
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._scaled = False

    def before_run(self, runner) -> None:
        """Scale the learning rates and what the schedules start from.

        It is the first call after mmengine's own scaling and comes before a checkpoint is loaded,
        whose rates are scaled already.

        Args:
            runner (Runner): The runner.
        """
        scale_cfg = runner.auto_scale_lr or {}
        # A run that only validates has not built its optimizers.
        trains = isinstance(runner.optim_wrapper, OptimWrapper)
        if self._scaled or not trains or not scale_cfg.get('enable'):
            return
        self._scaled = True
        counts = accumulative_counts(runner.optim_wrapper)
        if counts == 1:
            return
        for _, wrapper in iter_wrappers(runner.optim_wrapper):
            for group in wrapper.param_groups:
                for key in {'lr', 'initial_lr'} & group.keys():
                    group[key] *= counts
        for scheduler in _schedulers(runner.param_schedulers):
            # At its first step, where it is now, a schedule is in proportion to what it starts from.
            if scheduler.param_name == 'lr':
                scheduler.base_values = [value * counts for value in scheduler.base_values]
                scheduler._last_value = [value * counts for value in scheduler._last_value]
        # Not the loader's own batch size, which is None where the config has a batch sampler.
        batch = runner.train_dataloader.batch_sampler.batch_size * runner.world_size
        base = scale_cfg['base_batch_size']
        runner.logger.info(
            f'A step of the optimizer takes {counts} batches of {batch} images: learning rates '
            f'are scaled by {counts} more, by {batch * counts / base:g} in all.'
        )


def _schedulers(schedulers: dict | list | None) -> Iterator:
    if isinstance(schedulers, dict):
        schedulers = [scheduler for group in schedulers.values() for scheduler in group]
    yield from schedulers or ()
