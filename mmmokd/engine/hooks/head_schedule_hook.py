# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from mmengine.hooks import Hook

from mmmokd.registry import HOOKS
from mmmokd.utils import current_epoch, get_ori_model
from mmmokd.utils.errors import ConfigError

from ..branches import get_branches


@HOOKS.register_module()
class HeadScheduleHook(Hook):
    """Keeps the loss heads in step with the run.

    Tells every head the epoch, by ``set_epoch``, and logs what it returns, as
    ``{branch}.{term}.{name}``; heads of a term for several peers are copies of one and log the same.
    Tells each module of the model that has the attribute ``accumulating`` whether more micro-batches
    belong to the optimizer step, so that centers and queues move once per step.

    Args:
        base_epochs (int, optional): Epochs of a run that the heads' schedules are for: a shorter run
            goes through them faster in proportion. Defaults to None: they are the same in every
            run.

    Raises:
        ConfigError: If ``base_epochs`` is below 1.
    """

    priority = 'NORMAL'

    def __init__(self, base_epochs: int | None = None) -> None:
        if base_epochs is not None and base_epochs < 1:
            raise ConfigError(f'base_epochs must be at least 1, but got {base_epochs}')
        self.base_epochs = base_epochs

    def before_train(self, runner) -> None:
        """Find the heads once; they stay the same objects for the whole run.

        Raises:
            ConfigError: If the model has no branches.
        """
        self._epoch = None
        self._pace = 1.0
        if self.base_epochs is not None:
            epochs = runner.max_iters / len(runner.train_dataloader)
            self._pace = max(self.base_epochs / epochs, 1.0)
        get_branches(runner.model, type(self).__name__)
        model = get_ori_model(runner.model)
        self._heads = [
            (f'train/{name}.{term}', head) for name, term, _, head in model.heads_by_name()
        ]
        self._accumulating = [m for m in model.modules() if hasattr(m, 'accumulating')]

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Tell the heads when the epoch has changed, log what they say, hold or free the state."""
        epoch = current_epoch(runner)
        if epoch != self._epoch:
            self._epoch = epoch
            self._scalars = self._set_epoch(epoch * self._pace)
        runner.message_hub.update_scalars(self._scalars)
        # True for all micro-batches but the last of an optimizer step, also where the run begins or
        # ends within one.
        accumulating = not runner.optim_wrapper.should_sync()
        for module in self._accumulating:
            module.accumulating = accumulating

    def _set_epoch(self, epoch: float) -> dict[str, float]:
        found = [(key, head.set_epoch(epoch)) for key, head in self._heads]
        return {f'{key}.{name}': value for key, values in found for name, value in values.items()}
