# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Files of the authors' official MOKD to files of ours, and back."""

import argparse
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmmokd.registry import MODELS
from mmmokd.utils.errors import CheckpointError
from mmmokd.utils.state_dict import load_state_dict_strict, strip_module_prefix
from mmmokd.weights.files import check_target, read_checkpoint, read_file, save_file
from mmmokd.weights.official import from_official, to_official

# Of an official file, besides weights, what our file keeps in its `meta`.
META = {'epoch': int, 'arch_cnn': str, 'arch_vit': str}


def convert_from_official(
    source: str | Path,
    target: str | Path,
    branches: tuple[str, str] = ('cnn', 'vit'),
    config: Config | None = None,
    overwrite: bool = False,
) -> list[str]:
    """Convert a file of the authors' into a checkpoint of this package.

    No code of the file runs: it is read as weights, and of Python's classes only
    ``argparse.Namespace``, which the authors' files keep their arguments in and which does nothing
    but hold them, is made. Optimizers and gradient scalers are left out.

    Args:
        source (str | Path): File in the authors' format.
        target (str | Path): File to write: ``state_dict``, and in ``meta`` the epoch and the names
            of the architectures, where the source has them.
        branches (tuple[str, str]): Our names for the CNN's and the ViT's branch.
            Defaults to ('cnn', 'vit').
        config (Config, optional): A config whose model must have a place for every weight, and no
            further one. Defaults to None, not checked.
        overwrite (bool): Whether to replace an existing target. Defaults to False.

    Returns:
        list[str]: What was done, in sentences.

    Raises:
        MissingFileError: If there is no such source.
        CheckpointError: If the source is another file, does not fit the config, or the target cannot be
            written.
    """
    check_target(target, overwrite)
    official = read_file(source, allowed=(argparse.Namespace,))
    if not isinstance(official, dict):
        raise CheckpointError(
            f'{source} holds a {type(official).__name__}, not an official MOKD checkpoint'
        )
    try:
        state_dict = from_official(official, branches)
    except ValueError as error:
        raise CheckpointError(f'{source}: {error}') from error
    notes = [f'{len(state_dict)} tensors in the branches {" and ".join(branches)}']
    if not any(key.endswith('.center') for key in state_dict):
        notes.append('no centers: the source has none (loss_cnn_fn and so on)')
    if config is not None:
        notes.append(_check_fits(state_dict, source, config))
    kept = (*META, 'student_cnn', 'teacher_cnn', 'student_vit', 'teacher_vit')
    left_out = sorted(key for key in official if key not in kept and not key.startswith('loss_'))
    notes += [f'left out: {", ".join(left_out)}'] * bool(left_out)
    save_file(dict(state_dict=state_dict, meta=_meta(official)), target, overwrite)
    return notes


def convert_to_official(
    source: str | Path,
    target: str | Path,
    branches: tuple[str, str] = ('cnn', 'vit'),
    overwrite: bool = False,
) -> list[str]:
    """Convert a checkpoint of this package into the authors' format.

    Args:
        source (str | Path): Checkpoint of a MOKD with a ResNet's and a ViT's branch.
        target (str | Path): File to write: the four networks, the loss modules and, where the
            source has them, the epoch and the names of the architectures.
        branches (tuple[str, str]): Our names of the ResNet's and the ViT's branch.
            Defaults to ('cnn', 'vit').
        overwrite (bool): Whether to replace an existing target. Defaults to False.

    Returns:
        list[str]: What was done, in sentences.

    Raises:
        MissingFileError: If there is no such source.
        CheckpointError: If the source is another checkpoint, a branch is of an architecture that the
            official code does not have, or the target cannot be written.
    """
    check_target(target, overwrite)
    checkpoint = read_checkpoint(source)
    state_dict = strip_module_prefix(checkpoint['state_dict'])
    try:
        official = to_official(state_dict, branches)
    except ValueError as error:
        raise CheckpointError(f'{source}: {error}') from error
    count = sum(map(len, official.values()))
    notes = [f'{count} tensors in {", ".join(official)}']
    if count < len(state_dict):
        notes.append(f'{len(state_dict) - count} tensors of other branches and heads are left out')
    save_file({**official, **_meta(checkpoint.get('meta'))}, target, overwrite)
    return notes


def _check_fits(state_dict: dict, source: str | Path, cfg: Config) -> str:
    """Load the weights into the model of a config, all into all."""
    name = cfg.filename or 'the config'
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    model = MODELS.build(cfg.model)
    unexpected = load_state_dict_strict(model, state_dict, str(source))
    if unexpected:
        raise CheckpointError(
            f'{source} has {len(unexpected)} weights that the model of {name} has no place for, '
            f'the first is {unexpected[0]}'
        )
    return f'every weight fits {name}, and none is missing'


def _meta(found: object) -> dict[str, int | str]:
    found = found if isinstance(found, dict) else {}
    return {key: found[key] for key, kind in META.items() if isinstance(found.get(key), kind)}
