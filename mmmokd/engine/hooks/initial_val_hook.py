# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from mmengine.hooks import Hook

from mmmokd.registry import HOOKS


@HOOKS.register_module()
class InitialValHook(Hook):
    """Validates once before the first step of a new run, as the baseline of untrained networks.

    Later figures say nothing without this one: random features of a good architecture are far
    from chance. A resumed run, and one without validation, is not validated.
    """

    # After the hooks that prepare the run, so that the loop meets a run like any later one.
    priority = 'LOWEST'

    def before_train(self, runner) -> None:
        """Run the validation loop."""
        if runner.val_loop is not None and runner.iter == 0:
            runner.val_loop.run()
            runner.model.train()
