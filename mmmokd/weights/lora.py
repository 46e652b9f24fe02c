# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Low-rank updates of linear layers, in weights by name."""

from collections.abc import Mapping

import torch
from torch import Tensor

LORA_NAMES = ('lora_down', 'lora_up', 'lora_scale')


def is_lora(name: str) -> bool:
    """Tell whether a weight is of a low-rank update.

    Args:
        name (str): Its name.

    Returns:
        bool: True for those that :class:`~mmmokd.models.utils.LoRALinear` adds to a linear layer.
    """
    return name.rpartition('.')[2] in LORA_NAMES


def merge_lora(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add low-rank updates to the weights that they are of: W + s B A.

    Args:
        weights (Mapping[str, Tensor]): Weights by name, with updates or without.

    Returns:
        dict[str, Tensor]: Those of a model without updates, which computes the same.
    """
    merged = {name: value for name, value in weights.items() if not is_lora(name)}
    for name, down in weights.items():
        layer, _, leaf = name.rpartition('.')
        if leaf == LORA_NAMES[0]:
            up, scale = (weights[f'{layer}.{other}'] for other in LORA_NAMES[1:])
            weight = merged[f'{layer}.weight']
            # Once, and small: in double precision, so that only the result is rounded.
            update = scale.double() * torch.mm(up.double(), down.double())
            merged[f'{layer}.weight'] = (weight.double() + update).to(weight.dtype)
    return merged
