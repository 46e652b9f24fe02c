# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The networks of a model whose features are evaluated."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from mmmokd.structures import BackboneFeatures
from mmmokd.utils.errors import ConfigError


class FrozenNetwork(NamedTuple):
    """A network that gives features.

    Attributes:
        backbone (nn.Module, optional): Its backbone; None if the model keeps it elsewhere.
        extract (Callable): Gives the :class:`BackboneFeatures` of images (B, 3, H, W).
    """

    backbone: nn.Module | None
    extract: Callable[[Tensor], BackboneFeatures]


def find_networks(
    model: nn.Module, networks: Sequence[str] = ('teacher',)
) -> dict[str, FrozenNetwork]:
    """Find the networks of a model.

    Args:
        model (nn.Module): An unwrapped mmengine model: one with branches
            (:class:`BaseMultiBranch`), or any with ``extract_feat``.
        networks (Sequence[str]): ``'teacher'``, ``'student'`` or both, of each branch; one that has
            no such network has its other one evaluated (:meth:`Branch.network`). Without effect on
            models without branches. Defaults to ('teacher', ).

    Returns:
        dict[str, FrozenNetwork]: By ``'{branch}.{network}'``; ``'backbone'`` of a model without
        branches.
    """
    if not has_branches(model):
        extract = partial(_extract_feat, model)
        return {'backbone': FrozenNetwork(getattr(model, 'backbone', None), extract)}
    found = {
        f'{branch}.{network}': each.network(network)
        for network in networks
        for branch, each in model.branches.items()
    }
    return {name: FrozenNetwork(each.backbone, each.extract) for name, each in found.items()}


def has_branches(model: nn.Module) -> bool:
    """Tell whether a model has branches, and with them feature maps.

    Args:
        model (nn.Module): An unwrapped model.

    Returns:
        bool: True if it has.
    """
    return isinstance(getattr(model, 'branches', None), nn.ModuleDict)


def check_gives_maps(model: nn.Module) -> None:
    """Make sure that a model has maps to evaluate.

    Args:
        model (nn.Module): An unwrapped mmengine model.

    Raises:
        ValueError: If it has no branches.
    """
    if not has_branches(model):
        raise ConfigError(
            f'feature maps are those of a model with branches; {type(model).__name__} has none'
        )


def _extract_feat(model: nn.Module, images: Tensor) -> BackboneFeatures:
    """Read the last stage of another model; a pooled feature is a map of one place."""
    found = model.extract_feat(images)
    if not isinstance(found, Tensor):
        found = found[-1]
    if found.ndim == 2:
        found = found[:, :, None, None]
    if found.ndim != 4 or len(found) != len(images):
        raise ConfigError(
            f'features must be of shape (B, C) or (B, C, H, W) for B={len(images)} images, but are '
            f'{tuple(found.shape)}: set the backbone to give a pooled feature '
            "(out_type='cls_token' or 'avg_featmap' for a ViT)"
        )
    pooled = found.mean(dim=(2, 3))
    return BackboneFeatures(pooled, found.flatten(2).transpose(1, 2), tuple(found.shape[2:]))
