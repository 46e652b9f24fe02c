# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from collections.abc import Sequence

import mmcv.cnn
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from mmmokd.utils.errors import ConfigError
from mmmokd.utils.state_dict import name_some

from .checks import check_counts, check_number

LINEAR = (nn.Linear, mmcv.cnn.Linear)  # and no others, which may compute something else


class LoRALinear(nn.Linear):
    """A linear layer that keeps its weight and learns a low-rank update: y = W x + b + s B A x.

    `LoRA <https://arxiv.org/abs/2106.09685>`_. It differs from mmpretrain's ``LoRALinear`` and from
    peft's in its names alone: ``weight`` and ``bias`` stay where the layer had them, so that files of
    the plain model still load, and :func:`~mmmokd.weights.merge_lora` merges by name.

    Args:
        linear (nn.Linear): The layer; its parameters are taken over and take no gradient.
        rank (int): Rows of A and columns of B. Defaults to 8.
        alpha (float): The scale s is alpha / rank. Defaults to 8.0.

    Example:
        >>> layer = LoRALinear(nn.Linear(6, 4), rank=2)
        >>> [name for name, param in layer.named_parameters() if param.requires_grad]
        ['lora_down', 'lora_up']
    """

    def __init__(self, linear: nn.Linear, rank: int = 8, alpha: float = 8.0) -> None:
        check_counts('LoRA', rank=rank)
        check_number('LoRA', 'alpha', alpha)
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = linear.weight
        self.register_parameter('bias', linear.bias)
        self.requires_grad_(False)
        # Parameters and not layers: what initializes all linear layers of a model is not for them.
        self.lora_down = nn.Parameter(linear.weight.new_empty(rank, self.in_features))  # A
        self.lora_up = nn.Parameter(linear.weight.new_zeros(self.out_features, rank))  # B
        # In the state dict, so that weights can be merged without their config.
        self.register_buffer('lora_scale', linear.weight.new_tensor(alpha / rank))
        nn.init.kaiming_uniform_(self.lora_down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer with its update.

        Args:
            x (Tensor): Shape (..., in_features).

        Returns:
            Tensor: Shape (..., out_features).
        """
        update = F.linear(F.linear(x, self.lora_down), self.lora_up)
        return super().forward(x) + update * self.lora_scale

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, more, errors):
        scale = state_dict.get(f'{prefix}lora_scale')
        if scale is not None and not torch.isclose(scale.to(self.lora_scale), self.lora_scale):
            errors.append(
                f'{prefix}lora_scale (alpha / rank) is {scale:g} there, but {self.lora_scale:g} here'
            )
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, more, errors)


def add_lora(
    model: nn.Module,
    rank: int = 8,
    alpha: float = 8.0,
    targets: Sequence[str] = ('qkv', 'proj'),
) -> list[str]:
    """Freeze a model and give linear layers of it low-rank updates, in their place.

    Args:
        model (nn.Module): The model; changed in place. It computes what it did before, for the
            updates begin at zero.
        rank (int): See :class:`LoRALinear`. Defaults to 8.
        alpha (float): See :class:`LoRALinear`. Defaults to 8.0.
        targets (Sequence[str]): Ends of the layers' names, whole parts between dots. Defaults to
            ('qkv', 'proj'), the attention of the ViTs of mmpretrain and timm.

    Returns:
        list[str]: Names of the layers.

    Raises:
        ConfigError: If there is none for one of the targets, or a value is out of range.
    """
    targets = [targets] if isinstance(targets, str) else list(targets)
    linear = {name: module for name, module in model.named_modules() if type(module) in LINEAR}
    chosen = {t: [n for n in linear if f'.{n}'.endswith(f'.{t}')] for t in targets}
    empty = [target for target, names in chosen.items() if not names]
    if empty or not targets:
        ends = sorted({name.rpartition('.')[2] for name in linear})
        raise ConfigError(
            f'lora.targets: {type(model).__name__} has no linear layer {name_some(empty) or "[]"}; '
            f'its linear layers end with {name_some(ends, 12) or "nothing: it has none"}'
        )
    model.requires_grad_(False)
    names = [name for name in linear if any(name in found for found in chosen.values())]
    for name in names:
        parent, _, leaf = name.rpartition('.')
        setattr(model.get_submodule(parent), leaf, LoRALinear(linear[name], rank, alpha))
    return names
