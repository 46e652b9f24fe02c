# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from torch import nn

from mmmokd.utils import get_ori_model
from mmmokd.utils.errors import ConfigError


def get_branches(model: nn.Module, user: str) -> dict[str, nn.Module]:
    """Give the branches of a model to a hook or constructor that is for such models only.

    Args:
        model (nn.Module): The model, wrapped or not.
        user (str): Who asks, for the message.

    Returns:
        dict[str, nn.Module]: The branches by name, at least one.

    Raises:
        ConfigError: If the model has none.
    """
    model = get_ori_model(model)
    branches = getattr(model, 'branches', None)
    if not isinstance(branches, nn.ModuleDict) or not len(branches):
        raise ConfigError(
            f'{user} is for models with branches, as MOKD, but {type(model).__name__} has none: leave '
            f'{user} out of the config'
        )
    return dict(branches.items())
