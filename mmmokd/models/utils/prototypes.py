# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


def build_prototype_layer(
    in_channels: int, out_channels: int, train_gain: bool = True
) -> nn.Linear:
    """A weight-normalized linear layer without bias, one row a prototype.

    The direction keeps PyTorch's default initialization and the gain starts at 1. As
    parameters they are ``parametrizations.weight.original0`` (the gain, shape (K, 1)) and
    ``parametrizations.weight.original1`` (the direction, shape (K, C)). The layer is marked by
    ``is_prototypes = True``, by which :class:`PrototypeFreezeHook` finds it.

    Args:
        in_channels (int): Width C of the features.
        out_channels (int): Number K of prototypes.
        train_gain (bool): Whether the gain is trained or frozen at 1. Defaults to True.

    Returns:
        nn.Linear: Maps (..., C) to (..., K).
    """
    layer = weight_norm(nn.Linear(in_channels, out_channels, bias=False))
    gain = layer.parametrizations.weight.original0
    nn.init.ones_(gain)
    gain.requires_grad_(train_gain)
    layer.is_prototypes = True
    return layer


def gain_and_direction(layer: nn.Linear) -> tuple[Tensor, Tensor]:
    """The parameters of a prototype layer.

    Args:
        layer (nn.Linear): Of :func:`build_prototype_layer`.

    Returns:
        tuple[Tensor, Tensor]: Gain, shape (K, 1), and direction, shape (K, C).
    """
    weight = layer.parametrizations.weight
    return weight.original0, weight.original1


def mean_logits(features: Tensor, layer: nn.Linear) -> Tensor:
    """The mean of the logits of rows, which is the product of their mean with the prototypes.

    Args:
        features (Tensor): What the layer would take, shape (..., C).
        layer (nn.Linear): Of :func:`build_prototype_layer`.

    Returns:
        Tensor: Shape (K,), in the dtype of the parameters.
    """
    gain, direction = gain_and_direction(layer)
    with torch.autocast(features.device.type, enabled=False):
        mean = features.to(direction.dtype).flatten(0, -2).mean(dim=0)
        return (direction @ mean) * (gain.squeeze(1) / torch.linalg.vector_norm(direction, dim=1))
