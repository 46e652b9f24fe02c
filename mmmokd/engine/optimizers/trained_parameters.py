# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Check whether all that is to learn does."""

from collections import Counter

from mmengine.optim import OptimWrapper
from torch import nn

from mmmokd.utils.errors import ConfigError
from mmmokd.utils.state_dict import name_some

from .wrappers import iter_wrappers


def check_trained_parameters(model: nn.Module, optim_wrapper: OptimWrapper) -> None:
    """Make sure that every parameter that requires a gradient is in an optimizer, and in one only.

    One that is in none would get gradients and stay as it was initialized, without a word. Frozen
    parameters may be in an optimizer or not.

    Args:
        model (nn.Module): The model as its optimizers know it, wrapped or not.
        optim_wrapper (OptimWrapper): Its optimizer, or a dict of them.

    Raises:
        ConfigError: If a parameter that requires a gradient is in no group of an optimizer, or in
            several; names them.
    """
    times = Counter(
        id(param)
        for _, wrapper in iter_wrappers(optim_wrapper)
        for group in wrapper.optimizer.param_groups
        for param in group['params']
    )
    trained = {name: times[id(p)] for name, p in model.named_parameters() if p.requires_grad}
    orphans = [name for name, count in trained.items() if count == 0]
    shared = [name for name, count in trained.items() if count > 1]
    if orphans:
        raise ConfigError(
            f'{_parameters(orphans)} a gradient and would never change, being in no optimizer: '
            f'{name_some(orphans)}. Let the optim_wrapper take them, or freeze them '
            '(requires_grad=False)'
        )
    if shared:
        raise ConfigError(
            f'{_parameters(shared)} a gradient and would be changed more than once a step, being in '
            f'several parameter groups: {name_some(shared)}'
        )


def _parameters(names: list[str]) -> str:
    return f'{len(names)} parameter{"s require" if len(names) > 1 else " requires"}'
