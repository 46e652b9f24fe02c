# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""A library that a branch's backbone is exported to.

The modules of this folder are light to import, for the choices of ``--to`` in a command's help: torch,
and the library itself, are imported by what needs them.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmmokd.registry import ReloadableRegistry
from mmmokd.utils.atomic import atomic_write, explain_os_error
from mmmokd.utils.errors import CannotWriteError, ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mmmokd.weights import BackboneInfo

# By the name that `--to` has for them.
LIBRARIES = ReloadableRegistry('library', scope='mmmokd', locations=['mmmokd.transfer.libraries'])
FILE_SUFFIXES = ('.pth', '.pt', '.pkl', '.bin', '.safetensors')


class Library:
    """A library's model for a branch's backbone, and how it is written and loaded there.

    Subclasses are registered in :data:`LIBRARIES` by the name that ``--to`` takes, and define at least
    :attr:`takes`, :meth:`build` and :meth:`usage`.

    Args:
        name (str): The library's name.
        info (BackboneInfo): The branch's backbone, with its config.

    Attributes:
        takes (str): Which backbones the library has a model for, for the help and for messages.
        install_hint (str): How to install it. Defaults to '', ``pip install NAME``.
        prefix (str): What names of weights begin with in the file. Defaults to ''.
        wraps_in_checkpoint (bool): Whether the file is a checkpoint as mmengine writes it, with the
            weights in ``state_dict``. Defaults to False, the weights alone.
        is_folder (bool): Whether a folder is written. Defaults to False, a file.
        suffix (str): What the file's name must end in. Defaults to '', anything.
        vit_names (Mapping[str, str], optional): The library's names of a plain ViT's weights, by
            those of mmpretrain, as templates of :func:`mmmokd.weights.vit_names.rename`. Defaults to
            None: those of mmpretrain, mmseg, timm or torchvision, which are known.
        model (nn.Module): The library's model, with random weights until the branch's are loaded.
        model_name (str): Its name in the report. Defaults to '', its package and class.
    """

    takes: str
    install_hint: str = ''
    prefix: str = ''
    wraps_in_checkpoint: bool = False
    is_folder: bool = False
    suffix: str = ''
    vit_names: Mapping[str, str] | None = None
    model_name: str = ''

    def __init__(self, name: str, info: BackboneInfo) -> None:
        self.name = name
        self.info = info
        self.model = self.build()
        self.model_name = self.model_name or class_name(self.model)

    def build(self) -> nn.Module:
        """Build the library's model for ``self.info``.

        Returns:
            nn.Module: The model, without a classifier.

        Raises:
            ImportError: If the library is not installed.
            ConfigError: If it has no such model; see :meth:`refuse`.
        """
        raise NotImplementedError

    def usage(self, file: Path) -> str:
        """Say how the file is loaded there.

        Args:
            file (Path): The file, or folder, that was written.

        Returns:
            str: Lines of Python, or of a config of the library.
        """
        raise NotImplementedError

    def convert(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give a branch's weights the names that the model has for them.

        Args:
            weights (Mapping[str, Tensor]): The backbone's weights.

        Returns:
            dict[str, Tensor]: The same weights; those without a name there keep theirs.
        """
        if self.vit_names is None or not self.info.is_vit:
            return dict(weights)
        from mmmokd.weights.vit_names import rename, rename_vit, vit_library

        weights = rename_vit(weights, vit_library(weights), 'mmpretrain')
        return {rename(key, self.vit_names): value for key, value in weights.items()}

    def features(self, images: Tensor) -> Tensor | None:
        """Compute the model's pooled features, which must be those of the branch.

        Args:
            images (Tensor): Shape (B, C, H, W).

        Returns:
            Tensor | None: Shape (B, D); None where the model is of the branch's own class, and needs
            no comparison.
        """
        return pooled(self.model(images))

    def write(self, path: Path, meta: dict[str, str], overwrite: bool) -> None:
        """Write the model, with the weights loaded.

        Args:
            path (Path): The file: of safetensors if it ends so, else of ``torch.save``.
            meta (dict[str, str]): Where the weights are from.
            overwrite (bool): Whether to replace an existing file.

        Raises:
            CannotWriteError: If it cannot be written.
        """
        from mmmokd.weights import save_file

        content: dict[str, Any] = {
            f'{self.prefix}{key}': value for key, value in self.model.state_dict().items()
        }
        if self.wraps_in_checkpoint and path.suffix != '.safetensors':
            content = dict(state_dict=content, meta=meta)
        save_file(content, path, overwrite)

    def refuse(self, why: str = '') -> ConfigError:
        """The error that the library has no model for the branch.

        Args:
            why (str): What is different. Defaults to ''.

        Returns:
            ConfigError: To be raised.
        """
        cfg = self.info.cfg
        shown = {key: value for key, value in cfg.items() if key != 'type'}
        return ConfigError(
            f'--to {self.name} takes {self.takes}, but the branch is {cfg["type"]} with {shown}'
            + (f': {why}' if why else '')
        )


def build_library(name: str, info: BackboneInfo) -> Library:
    """Build a library's model for a branch's backbone.

    Args:
        name (str): A name in :data:`LIBRARIES`.
        info (BackboneInfo): The backbone, with its config.

    Returns:
        Library: With a model of random weights.

    Raises:
        ConfigError: If the library is not known, not installed, or has no such model.
    """
    cls = find_library(name)
    try:
        return cls(name, info)
    except ImportError as error:
        hint = cls.install_hint or f'pip install {name}'
        raise ConfigError(f'{name} cannot be imported ({error}): {hint}') from error


def find_library(name: str) -> type[Library]:
    """Find a library by its name.

    Args:
        name (str): A name in :data:`LIBRARIES`.

    Returns:
        type[Library]: Its class.

    Raises:
        ConfigError: If it is not known.
    """
    if name not in LIBRARIES.module_dict:
        known = ', '.join(LIBRARIES.module_dict)
        raise ConfigError(f'unknown library {name!r}: it should be one of {known}')
    return LIBRARIES.module_dict[name]


def check_out(out: str | Path, name: str, overwrite: bool) -> Path:
    """Make sure that what is written for a library can be written.

    Args:
        out (str | Path): The file or, for a library that loads one, the folder.
        name (str): The library's name.
        overwrite (bool): Whether it may exist.

    Returns:
        Path: The path.

    Raises:
        ConfigError: If it exists and must not, is of another kind, or cannot be written.
    """
    from mmmokd.weights import check_target

    path, library = Path(out).expanduser(), find_library(name)
    if library.suffix and path.suffix != library.suffix:
        raise ConfigError(
            f'{name} reads such a file by its suffix: {path} should end in {library.suffix}'
        )
    if not library.is_folder:
        return check_target(path, overwrite)
    if path.suffix in FILE_SUFFIXES or path.is_file():
        raise ConfigError(f'{name} loads a folder: {path} should be the name of one')
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise ConfigError(f'{path} already exists: choose another folder, or pass --force')
    check_target(path.with_name(f'.{path.name}'), overwrite=True)  # that there is room beside it
    return path


def write_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Write a folder that has all of its files afterwards, or none of them.

    Args:
        path (Path): The folder; other files that are in it are left there.
        write (Callable): Writes the files into the folder that it is given.

    Raises:
        CannotWriteError: If it cannot be written.
    """
    if not path.exists():
        with atomic_write(path) as part:
            part.mkdir()
            write(part)
        return
    try:
        with tempfile.TemporaryDirectory(prefix=f'.{path.name}.', dir=path.parent) as folder:
            write(Path(folder))
            for file in Path(folder).iterdir():
                os.replace(file, path / file.name)
    except OSError as error:
        raise CannotWriteError(explain_os_error(error, path)) from error


def class_name(model: nn.Module) -> str:
    """A model's class and package.

    Args:
        model (nn.Module): The model.

    Returns:
        str: For example ``'timm.ResNet'``.
    """
    return f'{type(model).__module__.partition(".")[0]}.{type(model).__name__}'


def load_line(file: Path) -> str:
    """The line of Python that loads a file of weights into ``model``.

    Args:
        file (Path): The file.

    Returns:
        str: A line.
    """
    read = f'torch.load({str(file)!r}, weights_only=True)'
    if file.suffix == '.safetensors':
        read = f'safetensors.torch.load_file({str(file)!r})'
    return f'model.load_state_dict({read})'


def pooled(output: Any) -> Tensor:
    """A model's pooled features.

    Args:
        output (Any): What the model gives: features or a map, or a list of which it is the last.

    Returns:
        Tensor: Shape (B, C).
    """
    last = output[-1] if isinstance(output, list | tuple) else output
    return last.mean((2, 3)) if last.ndim == 4 else last
