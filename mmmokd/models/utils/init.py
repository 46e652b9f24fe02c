# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterable

from torch import nn
from torch.nn.init import trunc_normal_, zeros_


def trunc_normal_linears_(modules: Iterable[nn.Module], std: float = 0.02) -> None:
    """Give every linear layer among the modules truncated-normal weights and zero biases.

    Args:
        modules (Iterable[nn.Module]): For instance ``model.modules()``.
        std (float): Standard deviation. Defaults to 0.02, DINO's.
    """
    for module in modules:
        if isinstance(module, nn.Linear):
            trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                zeros_(module.bias)
