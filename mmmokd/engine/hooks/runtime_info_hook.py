# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import mmengine.hooks

from mmmokd.registry import HOOKS

from ..history import defer_reading, update_scalars_later


@HOOKS.register_module()
class RuntimeInfoHook(mmengine.hooks.RuntimeInfoHook):
    """Logs what the train step gives, as mmengine's hook does, without waiting for the device.

    mmengine's reads every value at once, and the device idles until the host has prepared the next
    step. Here values stay on the device until the log, a checkpoint or a hook reads them. What is
    logged, and under which iteration, is the same.
    """

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Log the values of the iteration.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Unused, as ``data_batch``.
            outputs (dict, optional): Values by name, each a scalar tensor or a number. Defaults to
                None.
        """
        # Those that other hooks made in the iteration before, and those of a resumed run.
        defer_reading(runner.message_hub, 'train/')
        update_scalars_later(
            runner.message_hub, {f'train/{key}': value for key, value in (outputs or {}).items()}
        )
