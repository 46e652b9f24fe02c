# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""A model of another library that takes a branch's weights, and how they are written for it."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

from torch import Tensor, nn

from mmmokd.transfer.backbone_info import Source
from mmmokd.transfer.libraries.names import EXPORT_TAKES
from mmmokd.weights.files import check_target

FILE = 'FILE'  # stands for the file's name in the lines that load it
FOLDERS = ('transformers',)  # the libraries for which a folder is written, not a file
SUFFIXES = {'detectron2': '.pkl'}
FILE_SUFFIXES = ('.pth', '.pt', '.pkl', '.bin', '.safetensors')


def model_name(model: nn.Module) -> str:
    """A model's class and package.

    Args:
        model (nn.Module): The model.

    Returns:
        str: For example ``'timm.ResNet'``.
    """
    return f'{type(model).__module__.partition(".")[0]}.{type(model).__name__}'


def unchanged(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights by their own names.

    Args:
        weights (Mapping[str, Tensor]): Weights by name.

    Returns:
        dict[str, Tensor]: A copy.
    """
    return dict(weights)


class Target(NamedTuple):
    """A model that takes a branch's weights.

    Attributes:
        model (nn.Module): The model.
        prefix (str): What the names of the weights begin with in the file.
        usage (str): How to load the file there; ``FILE`` stands in it for the file's name.
        convert (Callable): Gives the branch's weights the model's names.
        features (Callable, optional): The model's pooled features (B, C) of images (B, 3, H, W), to
            be the same as the branch's own. None where the model is the branch's own code.
        write (Callable, optional): Writes the model to a path. Defaults to None, a file of weights.
        name (str): The model's name for messages. Defaults to '', its class and package.
    """

    model: nn.Module
    prefix: str
    usage: str
    convert: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = unchanged
    features: Callable[[nn.Module, Tensor], Tensor] | None = None
    write: Callable[[nn.Module, Path], None] | None = None
    name: str = ''


def not_taken(library: str, source: Source, why: str = '') -> ValueError:
    """The error that a library has no model for a branch.

    Args:
        library (str): The library.
        source (Source): The branch's backbone.
        why (str): What is different. Defaults to ''.

    Returns:
        ValueError: To be raised.
    """
    shown = {key: value for key, value in source.cfg.items() if key != 'type'}
    return ValueError(
        f'--to {library} takes {EXPORT_TAKES[library]}, but the branch is {source.cfg["type"]} with '
        f'{shown}' + (f': {why}' if why else '')
    )


def check_out(out: str | Path, library: str, overwrite: bool) -> Path:
    """Make sure that what is written for a library can be written.

    Args:
        out (str | Path): The file or, for ``FOLDERS``, the folder.
        library (str): The library.
        overwrite (bool): Whether it may be there already.

    Returns:
        Path: The path.

    Raises:
        ValueError: If it is there and must not be, is of another kind, or cannot be written.
    """
    path = Path(out).expanduser()
    suffix = SUFFIXES.get(library)
    if suffix and path.suffix != suffix:
        raise ValueError(
            f'{library} reads such a file by its suffix: {path} should end in {suffix}'
        )
    if library not in FOLDERS:
        return check_target(path, overwrite)
    if path.suffix in FILE_SUFFIXES or path.is_file():
        raise ValueError(f'{library} loads a folder: {path} should be the name of one')
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise ValueError(
            f'{path} is there already: name another folder, or overwrite it by --force'
        )
    check_target(_part(path), overwrite=True)
    return path


def write_whole(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Write a file that is whole afterwards or, where it was not, still not there.

    Args:
        path (Path): The file.
        write (Callable): Writes its contents into the open file.

    Raises:
        ValueError: If it cannot be written.
    """
    part = _part(path)
    try:
        with part.open('wb') as file:
            write(file)
        os.replace(part, path)
    except OSError as error:
        raise ValueError(f'cannot write {path}: {error}') from error
    finally:
        part.unlink(missing_ok=True)


def write_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Write a folder that has all of its files afterwards, or none of them.

    Args:
        path (Path): The folder; other files that are in it are left there.
        write (Callable): Writes the files into the folder that it is given.

    Raises:
        ValueError: If it cannot be written.
    """
    part = _part(path)
    try:
        part.mkdir()
        write(part)
        if path.is_dir():
            for file in part.iterdir():
                os.replace(file, path / file.name)
        else:
            os.replace(part, path)
    except OSError as error:
        raise ValueError(f'cannot write {path}: {error}') from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _part(path: Path) -> Path:
    return path.with_name(f'.{path.name}.{os.getpid()}.part')
