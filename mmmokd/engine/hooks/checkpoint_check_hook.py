# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from mmengine.hooks import Hook
from torch import nn

from mmmokd.registry import HOOKS
from mmmokd.utils.errors import CheckpointError
from mmmokd.utils.runner import get_ori_model
from mmmokd.utils.state_dict import load_state_dict_strict, strip_module_prefix
from mmmokd.weights.initialization import refuse_foreign


@HOOKS.register_module()
class CheckpointCheckHook(Hook):
    """Stops a run whose checkpoint does not fit the model.

    A Runner loads what fits and only logs what does not: it then tests, or continues training,
    random weights. With this hook every weight of the model must be in the checkpoint. The tools
    of this package add it by themselves.

    Args:
        partial (bool): For a run that starts from (``load_from``) weights of another model: it is
            enough that one weight fits. Defaults to False.

    Raises:
        CheckpointError: If the checkpoint does not fit.
    """

    # After the hooks that change the loaded checkpoint, as mmengine's EMAHook does, and before
    # ResumeHook: what is wrong with the weights is said first.
    priority = 'VERY_LOW'

    def __init__(self, partial: bool = False) -> None:
        self.partial = partial

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Check what the Runner is about to load."""
        state_dict = checkpoint.get('state_dict', checkpoint)
        if self.partial:
            self._check_partial(get_ori_model(runner.model), state_dict)
        else:
            load_state_dict_strict(runner.model, state_dict, 'the checkpoint')

    @staticmethod
    def _check_partial(model: nn.Module, state_dict: dict) -> None:
        weights = strip_module_prefix(state_dict)
        refuse_foreign(model, weights)
        own = model.state_dict()
        if not any(key in weights and weights[key].shape == own[key].shape for key in own):
            raise CheckpointError(
                f'not one of the {len(weights)} weights in the checkpoint fits one of the '
                f'{len(own)} of {type(model).__name__}: for example '
                f'{next(iter(weights), None)} and {next(iter(own), None)}'
            )
