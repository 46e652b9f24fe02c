# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Location of the configs of this package, and ``mmmokd::`` in front of a config's path."""

import contextlib
import contextvars
import difflib
import logging
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.logging import print_log

from mmmokd.utils.errors import MissingFileError

PACKAGE = Path(__file__).resolve().parent
PREFIX = 'mmmokd::'
# mmengine's own, which knows no package but those of a list of its own.
_get_cfg_path = Config._get_cfg_path
# Files that are being read, of which it was said that they have their bases from elsewhere.
_told: contextvars.ContextVar[set[str] | None] = contextvars.ContextVar('told', default=None)


def configs_dir() -> Path:
    """The folder of this package's configs: of a wheel, or of the checkout.

    Returns:
        Path: The folder, with ``_base_`` and ``mokd`` in it.

    Raises:
        MissingFileError: If the package came without them.
    """
    for folder in (PACKAGE / '.mim' / 'configs', PACKAGE.parent / 'configs'):
        if (folder / 'mokd').is_dir():
            return folder
    raise MissingFileError(f'mmmokd in {PACKAGE} was installed without its configs')


def find_config(path: str | Path) -> Path | None:
    """Find a config of this package by the end of a path.

    Args:
        path (str | Path): ``mmmokd::mokd/NAME.py``, or a path of which there is no file, as
            ``configs/mokd/NAME.py`` away from a checkout or ``../_base_/NAME.py`` in a copy.

    Returns:
        Path, optional: The config; None if there is none that ends so.

    Raises:
        MissingFileError: If the package came without its configs.
    """
    folder = configs_dir()
    parts = Path(str(path).removeprefix(PREFIX)).parts
    if 'configs' in parts:
        parts = parts[parts.index('configs') + 1 :]
    parts = [part for part in parts if part not in ('..', '.')]
    if not parts or Path(*parts).is_absolute():
        return None
    exact = folder.joinpath(*parts)
    if exact.is_file():
        return exact
    if len(parts) == 1:  # the name alone, as in a config that builds on one beside it
        found = [file for file in folder.rglob(parts[0]) if '_base_' not in file.parts]
        return found[0] if len(found) == 1 and found[0].is_file() else None
    return None


def named_config(path: str) -> Path:
    """The config that ``mmmokd::mokd/NAME.py`` stands for.

    Args:
        path (str): As above.

    Returns:
        Path: Its file.

    Raises:
        MissingFileError: If there is none; names the nearest.
    """
    found = find_config(path)
    if found is not None:
        return found
    name, folder = Path(path).name, configs_dir()
    names = {file.name: file for file in sorted(folder.rglob('*.py'))}
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f' Did you mean {PREFIX}{names[near[0]].relative_to(folder)}?' if near else ''
    raise MissingFileError(f'config {path} does not exist.{hint}')


@contextlib.contextmanager
def bases_are_found() -> Iterator[None]:
    """Let a copy of a config find its ``_base_``, where it was copied without, in this package.

    Yields:
        None: While configs are read so.
    """
    token = _told.set(set())
    try:
        yield
    finally:
        _told.reset(token)


def _get_path(cfg_path: str, filename: str) -> tuple[str, str | None]:
    if cfg_path.startswith(PREFIX):
        # Without a scope: the types of these configs say theirs, or are of their default scope.
        return str(named_config(cfg_path)), None
    path, scope = _get_cfg_path(cfg_path, filename)
    told = _told.get()
    if scope is not None or told is None or Path(path).is_file():
        return path, scope
    found = find_config(cfg_path)
    if found is None:
        return path, scope
    if filename not in told:
        told.add(filename)
        text = f'{filename}: {cfg_path}, which it builds on, does not exist; using {found}'
        print_log(text, 'current', logging.WARNING)
    return str(found), None


def register_configs() -> None:
    """Let mmengine find this package's configs by ``mmmokd::``, as ``_base_`` or by ``get_config``."""
    MODULE2PACKAGE.setdefault('mmmokd', 'mmmokd')
    Config._get_cfg_path = staticmethod(_get_path)
