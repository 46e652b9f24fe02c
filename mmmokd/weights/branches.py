# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Branches in a file of weights, and whether a backbone fits them."""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmmokd.utils.state_dict import load_state_dict_strict, name_some, strip_module_prefix

from .files import read_checkpoint, read_file
from .released import NETWORKS as RELEASED_NETWORKS
from .released import from_released
from .vit_names import rename_vit, resize_pos_embed, vit_library

_BRANCH = re.compile(r'branches\.([^.]+)\.(student|teacher)\.')


class WeightFile(NamedTuple):
    """What a file of weights holds.

    Attributes:
        path (str): Where it is from.
        weights (dict[str, Tensor]): Weights by name, without the ``module.`` of DDP; of a file in
            the authors' format by the names that a MOKD with the branches ``cnn`` and ``vit`` has.
        meta (dict): The file's ``meta``, as mmengine writes it; empty if it has none.
    """

    path: str
    weights: dict[str, Tensor]
    meta: dict[str, Any]


def read_weights(path: str | Path, map_location: str = 'cpu') -> WeightFile:
    """Read a file of weights of this package, mmengine, the authors, timm or torchvision.

    Args:
        path (str | Path): A local file of ``torch.save`` or safetensors.
        map_location (str): Device to put tensors on. Defaults to 'cpu'.

    Returns:
        WeightFile: Its weights. No code that the file may hold runs.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read safely, or has no weights.
    """
    content = read_file(path, map_location, allowed=(argparse.Namespace,))
    if isinstance(content, dict) and set(RELEASED_NETWORKS) <= set(content):
        return WeightFile(str(path), from_released(content), {})
    if isinstance(content, dict) and 'state_dict' not in content:
        content = _flatten(content)
    checkpoint = read_checkpoint(path, map_location, content)
    meta = checkpoint.get('meta')
    return WeightFile(
        str(path),
        {
            key: value
            for key, value in strip_module_prefix(checkpoint['state_dict']).items()
            if torch.is_tensor(value)
        },
        meta if isinstance(meta, dict) else {},
    )


def _flatten(content: dict[str, Any]) -> dict[str, Any]:
    """Names of weights that lie in dicts of their own, as DINO's (teacher) and DeiT's (model) do."""
    flat = {}
    for key, value in content.items():
        if isinstance(value, dict) and any(map(torch.is_tensor, value.values())):
            inner = strip_module_prefix(value)
            flat.update({f'{key}.{name}': tensor for name, tensor in inner.items()})
        else:
            flat[key] = value
    return flat


def list_branches(weights: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """The branches of a MOKD's weights.

    Args:
        weights (Mapping[str, Tensor]): Weights by name.

    Returns:
        dict[str, list[str]]: The networks ('student', 'teacher') that are there of each branch;
        empty for weights of another model.
    """
    found: dict[str, list[str]] = {}
    for key in weights:
        if match := _BRANCH.match(key):
            networks = found.setdefault(match[1], [])
            if match[2] not in networks:
                networks.append(match[2])
    return found


def backbone_prefix(branch: str, network: str = 'teacher') -> str:
    """What the names of a branch's backbone begin with.

    Args:
        branch (str): Name of the branch.
        network (str): ``'teacher'`` or ``'student'``. Defaults to ``'teacher'``.

    Returns:
        str: For example ``'branches.cnn.teacher.backbone.'``.
    """
    return f'branches.{branch}.{network}.backbone.'


def select_weights(file: WeightFile, prefix: str) -> dict[str, Tensor]:
    """The weights below a name.

    Args:
        file (WeightFile): A file's weights.
        prefix (str): What their names begin with; a dot at its end is added.

    Returns:
        dict[str, Tensor]: Weights by the rest of their names.

    Raises:
        ValueError: If there is none; tells which branches, or other weights, the file holds.
    """
    prefix = prefix.rstrip('.') + '.'
    chosen = {k[len(prefix) :]: v for k, v in file.weights.items() if k.startswith(prefix)}
    if chosen:
        return chosen
    raise ValueError(f'{file.path} has no weights below {prefix!r}. {describe_contents(file)}')


def describe_contents(file: WeightFile) -> str:
    """What there is to choose from in a file of weights.

    Args:
        file (WeightFile): A file's weights.

    Returns:
        str: A sentence: the branches and a prefix of one of them, or the first weights.
    """
    branches = list_branches(file.weights)
    if not branches:
        return f'It holds {len(file.weights)} weights: {name_some(list(file.weights))}'
    name, networks = next(iter(branches.items()))
    listed = ', '.join(f'{each} ({", ".join(nets)})' for each, nets in branches.items())
    return (
        f'It holds the branches {listed}: give, for example, the prefix '
        f'{backbone_prefix(name, networks[-1])!r}'
    )


def describe_backbone(weights: Mapping[str, Tensor]) -> str:
    """A backbone's shape, told from its weights.

    Args:
        weights (Mapping[str, Tensor]): Weights by name.

    Returns:
        str: For example ``'a ResNet of 3-4-6-3 bottleneck blocks, 64 wide'``.
    """
    library = vit_library(weights)
    if library is not None:
        ours = rename_vit(weights, library, 'mmpretrain')
        patch = ours['patch_embed.projection.weight']
        layers = {int(key.split('.')[1]) for key in ours if key.startswith('layers.')}
        return (
            f'a ViT of {len(layers)} layers, {len(patch)} wide, with patches of {patch.shape[-1]}'
        )
    stages: dict[str, set[str]] = {}
    for key in weights:
        if match := re.match(r'(layer\d)\.(\d+)\.', key):
            stages.setdefault(match[1], set()).add(match[2])
    first = weights.get('layer1.0.conv1.weight')
    if stages and first is not None:
        kind = 'bottleneck' if 'layer1.0.conv3.weight' in weights else 'basic'
        blocks = '-'.join(str(len(numbers)) for _, numbers in sorted(stages.items()))
        return f'a ResNet of {blocks} {kind} blocks, {len(first)} wide'
    return f'a model of {len(weights)} weights ({name_some(list(weights), 2)})'


def load_backbone(module: nn.Module, weights: Mapping[str, Tensor], source: str) -> list[str]:
    """Load a backbone's weights into a backbone, all of which they must fit.

    A ViT's weights may have the names of another library (``VIT_NAMES``), and a position embedding
    of another size, which is resized. The module may lack whole parts of the source, as a detector
    lacks the last stage or a segmenter the last norm, but must lack nothing in the parts it has: a
    ResNet-34 does not fit a ResNet-18, though it has all of its weights.

    Args:
        module (nn.Module): The backbone, or a part of one, as a shared head of ``layer4``.
        weights (Mapping[str, Tensor]): Its weights by name.
        source (str): Where they are from, for the message.

    Returns:
        list[str]: Names of weights that the module has no part for; they were not used.

    Raises:
        ValueError: If they do not fit; the message describes both sides.
    """
    own = module.state_dict()
    weights = adapt_weights(weights, own, source)
    try:
        unexpected = load_state_dict_strict(module, weights, source)
        parts = {key.split('.')[0] for key in own}
        strange = [key for key in unexpected if key.split('.')[0] in parts]
        if strange:
            raise ValueError(
                f'{source} has {len(strange)} weights that {type(module).__name__} has no place '
                f'for: {name_some(strange)}'
            )
    except ValueError as error:
        raise ValueError(
            f'{error}. The weights are of {describe_backbone(weights)}, the model that they should '
            f'go to is {describe_backbone(own)}'
        ) from error
    return unexpected


def adapt_weights(
    weights: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str
) -> dict[str, Tensor]:
    """Give a ViT's weights the names, and the size of position embedding, that a model has.

    Args:
        weights (Mapping[str, Tensor]): Weights by name.
        own (Mapping[str, Tensor]): The model's own weights.
        source (str): Where the weights are from, for the message.

    Returns:
        dict[str, Tensor]: The weights; as they were, if one side is no ViT.
    """
    theirs, ours = vit_library(weights), vit_library(own)
    if theirs is None or ours is None:
        return dict(weights)
    adapted = rename_vit(weights, theirs, ours)
    for key in ('pos_embed', 'encoder.pos_embedding'):
        found, wanted = adapted.get(key), own.get(key)
        if found is not None and wanted is not None and found.shape[1] != wanted.shape[1]:
            adapted[key] = resize_pos_embed(found, wanted.shape[1], source)
    return adapted
