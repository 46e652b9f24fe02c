# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Contents of a file of weights: branches, or another model."""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmmokd.utils.errors import CheckpointError
from mmmokd.utils.state_dict import name_some
from mmmokd.weights.files import read_file
from mmmokd.weights.locate import name_source
from mmmokd.weights.official import NETWORKS as OFFICIAL_NETWORKS
from mmmokd.weights.official import from_official

AVERAGES = ('state_dict_ema', 'model_ema')  # timm's averaged weights, beside the others
_BRANCH = re.compile(r'branches\.([^.]+)\.(student|teacher)\.')
# Levels of names that torch.compile, FSDP and activation checkpointing add.
_WRAPPERS = re.compile(r'(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.')


class WeightFile(NamedTuple):
    """Contents of a file of weights.

    Attributes:
        path (str): Where it is from.
        weights (dict[str, Tensor]): Weights by name, without the ``module.`` of DDP; of a file in
            the authors' format by the names that a MOKD with the branches ``cnn`` and ``vit`` has.
        meta (dict): The file's ``meta``, as mmengine writes it; empty if it has none.
        project (str): Which project wrote it, ``'DINO'`` for example; '' where that is not known.
    """

    path: str
    weights: dict[str, Tensor]
    meta: dict[str, Any]
    project: str = ''


def read_weights(
    path: str | Path, map_location: str = 'cpu', allow_code: bool | None = None
) -> WeightFile:
    """Read a file of weights of this package, mmengine, the authors, or another project.

    Weights that lie in dicts of their own, as DINO's teacher and VISSL's trunk do, have names that
    begin with those of the dicts.

    Args:
        path (str | Path): A local file of ``torch.save`` or safetensors.
        map_location (str): Device to put tensors on. Defaults to 'cpu'.
        allow_code (bool, optional): Whether code that the file holds may run; see
            :func:`~mmmokd.weights.files.read_file`. Defaults to None.

    Returns:
        WeightFile: Its weights.

    Raises:
        MissingFileError: If there is no such file.
        CheckpointError: If it cannot be read safely, or has no weights.
    """
    content = read_file(path, map_location, (argparse.Namespace,), allow_code)
    return to_weight_file(path, content)


def to_weight_file(path: str | Path, content: Any) -> WeightFile:
    """Find the weights in what a file holds.

    Args:
        path (str | Path): Where it is from.
        content (Any): What ``torch.load`` gives.

    Returns:
        WeightFile: The weights.

    Raises:
        CheckpointError: If it has no weights.
    """
    if not isinstance(content, dict):
        raise CheckpointError(f'checkpoint {path} holds no weights, but a {type(content).__name__}')
    if set(OFFICIAL_NETWORKS) <= set(content):
        return WeightFile(str(path), from_official(content), {})
    if isinstance(content.get('state_dict'), dict):
        flat = _flatten(content['state_dict'])
        averages = {key: content[key] for key in AVERAGES if isinstance(content.get(key), dict)}
        flat |= _flatten(averages)
    else:
        flat = _flatten(content)
    weights = {key: value for key, value in flat.items() if torch.is_tensor(value)}
    if not weights:
        raise CheckpointError(f'checkpoint {path} holds no weights')
    meta = content.get('meta')
    project = name_source([*weights, *map(str, content)])
    return WeightFile(str(path), weights, meta if isinstance(meta, dict) else {}, project)


def _flatten(content: dict[str, Any]) -> dict[str, Any]:
    """Names of weights in dicts in dicts, without those of wrappers (DDP, compile, FSDP)."""
    flat = {}
    for key, value in content.items():
        if not isinstance(key, str):
            continue
        if isinstance(value, dict) and not _is_of_training(key):
            flat |= {f'{key}.{name}': each for name, each in _flatten(value).items()}
        else:
            flat[clean_name(key)] = value
    return flat


def _is_of_training(key: str) -> bool:
    return any(word in key for word in ('optim', 'scaler', 'schedul', 'loops', 'callbacks'))


def clean_name(name: str) -> str:
    """A weight's name, or the beginning of one, in the bare model.

    Args:
        name (str): With or without what DDP, FSDP and ``torch.compile`` put into it.

    Returns:
        str: Without it.
    """
    name = _WRAPPERS.sub('', name)
    while name.startswith('module.'):
        name = name.removeprefix('module.')
    return name


def list_branches(weights: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """The branches of a MOKD's weights.

    Args:
        weights (Mapping[str, Tensor]): Weights by name.

    Returns:
        dict[str, list[str]]: The networks ('student', 'teacher') of each branch that the file has;
        empty for weights of another model.
    """
    found: dict[str, list[str]] = {}
    for key in weights:
        if match := _BRANCH.match(key):
            networks = found.setdefault(match[1], [])
            if match[2] not in networks:
                networks.append(match[2])
    return found


def choose_branch(file: WeightFile, branch: str | None = None) -> str:
    """The branch that is asked for, or the only one.

    Args:
        file (WeightFile): A MOKD checkpoint.
        branch (str, optional): Its name. Defaults to None, the only one.

    Returns:
        str: Its name.

    Raises:
        CheckpointError: If it does not exist, or there are several to choose from.
    """
    branches = list_branches(file.weights)
    if not branches:
        raise CheckpointError(f'{file.path} is not a MOKD checkpoint. {describe_contents(file)}')
    if branch is None and len(branches) == 1:
        return next(iter(branches))
    if branch not in branches:
        asked = 'which branch?' if branch is None else f'there is no branch {branch!r} in'
        raise CheckpointError(f'{asked} {file.path} holds {", ".join(branches)}')
    return branch


def choose_network(file: WeightFile, branch: str, network: str | None = None) -> str:
    """The network of a branch that is asked for, or the one to evaluate.

    Args:
        file (WeightFile): A MOKD checkpoint.
        branch (str): Name of one of its branches.
        network (str, optional): ``'teacher'`` or ``'student'``. Defaults to None: the teacher, or the
            student of a branch without one (``ema=False``).

    Returns:
        str: ``'teacher'`` or ``'student'``.

    Raises:
        CheckpointError: If the branch does not have it.
    """
    networks = list_branches(file.weights)[branch]
    if network is None:
        return default_network(networks)
    if network not in networks:
        raise CheckpointError(
            f'branch {branch!r} of {file.path} has no {network}, only a {" and a ".join(networks)}'
        )
    return network


def default_network(networks: Sequence[str]) -> str:
    """The network of a branch to evaluate or to transfer.

    Args:
        networks (Sequence[str]): Those that there are of the branch.

    Returns:
        str: ``'teacher'``, or ``'student'`` if there is no teacher.
    """
    return 'teacher' if 'teacher' in networks else networks[0]


def backbone_prefix(branch: str, network: str = 'teacher') -> str:
    """Prefix of the names of a branch's backbone.

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
        CheckpointError: If there is none; tells which branches, or other weights, the file holds.
    """
    prefix = prefix.rstrip('.') + '.'
    for begin in (prefix, clean_name(prefix)):
        chosen = {k[len(begin) :]: v for k, v in file.weights.items() if k.startswith(begin)}
        if chosen:
            return chosen
    if prefix == 'state_dict.':  # not the averages beside it, which would be taken without a prefix
        return {k: v for k, v in file.weights.items() if k.partition('.')[0] not in AVERAGES}
    raise CheckpointError(f'{file.path} has no weights below {prefix!r}. {describe_contents(file)}')


def describe_contents(file: WeightFile) -> str:
    """Describe what a file of weights holds, for a message.

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
        f'{backbone_prefix(name, default_network(networks))!r}'
    )
