# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from mmengine.hooks import Hook

from mmmokd.registry import HOOKS
from mmmokd.utils import current_epoch
from mmmokd.utils.errors import ConfigError

from ..branches import get_branches
from ..optimizers.wrappers import iter_wrappers


@HOOKS.register_module()
class PrototypeFreezeHook(Hook):
    """Holds prototype layers still at the start, as in DINO.

    These are the layers of :func:`~mmmokd.models.utils.build_prototype_layer`, wherever they are in a
    student: it marks them by ``is_prototypes``, and any other module can be marked so. Their
    gradients (gain and direction) are dropped right before the optimizer's step, so they see no
    momentum and no weight decay either. Dropping gradients, rather than asking for none, leaves the
    backward pass, and with it DDP's, as it is in later epochs.

    Args:
        freeze_epochs (int): Epochs, from the first, without an update. Defaults to 1.
        freeze_iters (int, optional): The same in iterations (micro-batches); replaces
            ``freeze_epochs``. Defaults to None.

    Raises:
        ConfigError: If a count is negative.
    """

    def __init__(self, freeze_epochs: int = 1, freeze_iters: int | None = None) -> None:
        if freeze_epochs < 0 or (freeze_iters or 0) < 0:
            raise ConfigError(
                f'freeze_epochs and freeze_iters must be >= 0, but got {freeze_epochs} and '
                f'{freeze_iters}'
            )
        self.freeze_epochs = freeze_epochs
        self.freeze_iters = freeze_iters

    def before_train(self, runner) -> None:
        """Hang on to every optimizer's step."""
        prototypes = {
            param
            for branch in get_branches(runner.model, type(self).__name__).values()
            if branch.student is not None
            for layer in branch.student.modules()
            if getattr(layer, 'is_prototypes', False)
            for param in layer.parameters()
        }

        def drop_gradients(optimizer, args, kwargs) -> None:
            if self._frozen(runner):
                for group in optimizer.param_groups:
                    for param in prototypes.intersection(group['params']):
                        param.grad = None

        self._handles = [
            w.optimizer.register_step_pre_hook(drop_gradients)
            for _, w in iter_wrappers(runner.optim_wrapper)
        ]

    def after_train(self, runner) -> None:
        """Let go of the optimizers."""
        for handle in self._handles:
            handle.remove()

    def _frozen(self, runner) -> bool:
        if self.freeze_iters is not None:
            return runner.iter < self.freeze_iters
        return current_epoch(runner) < self.freeze_epochs
