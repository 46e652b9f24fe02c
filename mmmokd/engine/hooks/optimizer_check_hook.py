# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper

from mmmokd.registry import HOOKS

from ..optimizers.trained_parameters import check_trained_parameters


@HOOKS.register_module()
class OptimizerCheckHook(Hook):
    """Stops a run that would leave a parameter that requires a gradient untrained.

    For any model and any constructor of optimizers; those of this package check it by themselves.
    The tools of this package add the hook to every run.

    Raises:
        ConfigError: See :func:`~mmmokd.engine.optimizers.check_trained_parameters`.
    """

    priority = 'VERY_HIGH'

    def before_run(self, runner) -> None:
        """Check the optimizers, which the Runner has just built."""
        if isinstance(runner.optim_wrapper, OptimWrapper):  # a run that only tests has none
            check_trained_parameters(runner.model, runner.optim_wrapper)
