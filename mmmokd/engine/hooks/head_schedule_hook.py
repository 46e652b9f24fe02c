# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from mmengine.hooks import Hook

from mmmokd.models.heads import DistillationHead
from mmmokd.registry import HOOKS
from mmmokd.utils import current_epoch, get_ori_model
from mmmokd.utils.errors import ConfigError


@HOOKS.register_module()
class HeadScheduleHook(Hook):
    """Keeps the distillation heads in step with the run.

    Sets each head's teacher temperature of the epoch and writes it to the log, and lets centers move
    once an optimizer step under gradient accumulation.

    Args:
        base_epochs (int, optional): Epochs of a run that the heads' warm-ups of the temperature are
            for: a shorter run goes through them faster in proportion. Defaults to None: they are
            the same in every run.

    Raises:
        ConfigError: If ``base_epochs`` is below 1.
    """

    priority = 'NORMAL'

    def __init__(self, base_epochs: int | None = None) -> None:
        if base_epochs is not None and base_epochs < 1:
            raise ConfigError(f'base_epochs must be at least 1, but got {base_epochs}')
        self.base_epochs = base_epochs

    def before_train(self, runner) -> None:
        """Find the heads once; they stay the same objects for the whole run."""
        self._epoch = None
        self._pace = 1.0
        if self.base_epochs is not None:
            epochs = runner.max_iters / len(runner.train_dataloader)
            self._pace = max(self.base_epochs / epochs, 1.0)
        self._centered = [
            module
            for module in get_ori_model(runner.model).modules()
            if isinstance(module, DistillationHead)
        ]

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Set the temperatures when the epoch has changed, log them, and hold or free the centers."""
        epoch = current_epoch(runner)
        if epoch != self._epoch:
            self._epoch = epoch
            self._temps = self._set_epoch(runner, epoch * self._pace)
        runner.message_hub.update_scalars(self._temps)
        # True for all micro-batches but the last of an optimizer step, also where the run begins or
        # ends within one.
        accumulating = not runner.optim_wrapper.should_sync()
        for head in self._centered:
            head.accumulating = accumulating

    @staticmethod
    def _set_epoch(runner, epoch: float) -> dict[str, float]:
        temps = {}
        for name, _, peer, head in get_ori_model(runner.model).heads_by_name():
            for key, value in head.set_epoch(epoch).items():
                temps.setdefault(f'train/{name}.{key}' + ('_cross' if peer else ''), value)
        return temps
