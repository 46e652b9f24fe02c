# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Reading and writing files of weights: no code of a file runs, no file stays half-written."""

import os
import pickle
import re
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import get_torch_safe_globals

from mmmokd.utils.atomic import atomic_write
from mmmokd.utils.environment import ALLOW_CODE
from mmmokd.utils.errors import CannotWriteError, CheckpointError, ConfigError, MissingFileError
from mmmokd.utils.names import missing_file_message


def _history_method(cls: type, name: str) -> Any:
    """The only ``getattr`` that a checkpoint of mmengine needs: a HistoryBuffer's statistics."""
    if cls is not HistoryBuffer or name.startswith('_'):
        raise pickle.UnpicklingError(f'getattr({cls}, {name!r})')
    return getattr(cls, name)


def _safe_globals() -> list:
    """Types in a checkpoint of mmengine besides tensors: the log's history, in NumPy arrays."""
    allowed = [item for item in get_torch_safe_globals() if item is not getattr]
    return [*allowed, (_history_method, 'builtins.getattr')]


def read_file(
    path: str | Path,
    map_location: str = 'cpu',
    allowed: Sequence[type] = (),
    allow_code: bool | None = None,
) -> Any:
    """Read what ``torch.save``, or safetensors, wrote, without running code that the file may hold.

    Args:
        path (str | Path): A local file.
        map_location (str): Device to put tensors on. Defaults to 'cpu'.
        allowed (Sequence[type]): Classes whose objects the file may hold besides tensors, numbers,
            texts, their collections and mmengine's log history; only such that do nothing when they
            are made. Defaults to none.
        allow_code (bool, optional): Whether to unpickle the file, which EXECUTES ANY CODE that it
            holds. Defaults to None: only if the environment variable
            ``MMMOKD_ALLOW_CODE_FROM_CHECKPOINT`` is 1, which the tools set for
            ``--allow-code-from-checkpoint``.

    Returns:
        Any: The file's contents. Tensors of a file in today's format are mapped, not read, until
        they are used.

    Raises:
        MissingFileError: If there is no such file.
        CheckpointError: If it is not a complete file of ``torch.save``, or holds other objects.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise MissingFileError(missing_file_message(path, 'checkpoint', path.suffix))
    if path.suffix == '.safetensors':
        return _read_safetensors(path, map_location)
    if allow_code is None:
        allow_code = os.environ.get(ALLOW_CODE) == '1'
    try:
        if allow_code:
            return torch.load(path, map_location, weights_only=False)
        with torch.serialization.safe_globals([*_safe_globals(), *allowed]):
            return torch.load(path, map_location, weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        what = re.search(r'GLOBAL [\w.]+|getattr\(.*?\)', str(error))
        raise CheckpointError(
            f'checkpoint {path} is not a file of weights alone (found '
            f'{what[0] if what else "no PyTorch format"}): loading it may run any code. If you trust '
            'its source, pass --allow-code-from-checkpoint (in Python, allow_code=True)'
        ) from error
    except (RuntimeError, EOFError) as error:
        raise CheckpointError(
            f'checkpoint {path} is damaged or not a checkpoint: {error}'
        ) from error
    except OSError as error:
        raise CheckpointError(f'checkpoint {path} cannot be read: {error.strerror}') from error


def _read_safetensors(path: Path, map_location: str) -> dict[str, torch.Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ConfigError(f'{path} needs safetensors: pip install safetensors') from error
    try:
        return load_file(path, device=map_location)
    except SafetensorError as error:
        raise CheckpointError(
            f'checkpoint {path} is damaged or not a safetensors file: {error}'
        ) from error


def read_checkpoint(
    path: str | Path,
    map_location: str = 'cpu',
    content: Any = None,
    allow_code: bool | None = None,
) -> dict[str, Any]:
    """Read a checkpoint as :func:`read_file` does.

    Args:
        path (str | Path): A local file as mmengine, or ``torch.save`` of weights, writes it.
        map_location (str): Device to put tensors on. Defaults to 'cpu'.
        content (Any): What the file holds, where it was read already. Defaults to None.
        allow_code (bool, optional): See :func:`read_file`. Defaults to None.

    Returns:
        dict: The file's contents, with the weights in ``'state_dict'``.

    Raises:
        MissingFileError: If there is no such file.
        CheckpointError: If it cannot be read safely, or has no weights.
    """
    if content is None:
        content = read_file(path, map_location, allow_code=allow_code)
    checkpoint = content
    if isinstance(checkpoint, dict) and 'state_dict' not in checkpoint:
        checkpoint = {'state_dict': checkpoint}
    weights = checkpoint['state_dict'] if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict) or not any(map(torch.is_tensor, weights.values())):
        raise CheckpointError(f'checkpoint {path} holds no weights')
    return checkpoint


def check_target(path: str | Path, overwrite: bool = False) -> Path:
    """Make sure that a file can be made, before work is put into what it is to hold.

    Args:
        path (str | Path): The file.
        overwrite (bool): Whether it may exist. Defaults to False.

    Returns:
        Path: The file, in a folder that exists: made, if it did not.

    Raises:
        ConfigError: If it exists and must not.
        CannotWriteError: If its folder cannot be written to.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise ConfigError(f'{path} is a folder: name the file to write')
    if path.exists() and not overwrite:
        raise ConfigError(f'{path} already exists: choose another file, or pass --force')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            return path
    except OSError as error:
        raise CannotWriteError(
            f'cannot write to the folder {path.parent}: {error.strerror}'
        ) from error


def save_file(content: Any, path: str | Path, overwrite: bool = False) -> None:
    """Write a file by ``torch.save`` that is whole or does not exist.

    Args:
        content (Any): What ``torch.save`` takes; for a path that ends in ``.safetensors`` a dict of
            tensors.
        path (str | Path): The file; its folder is made.
        overwrite (bool): Whether to replace an existing file. Defaults to False.

    Raises:
        ConfigError: If the file exists and must not.
        CannotWriteError: If it cannot be written.
    """
    path = check_target(path, overwrite)
    try:
        with atomic_write(path) as part:
            if path.suffix == '.safetensors':
                _write_safetensors(content, part)
            else:
                torch.save(content, part)
    except CannotWriteError:
        raise
    except RuntimeError as error:  # what torch's writer makes of a full disk
        raise CannotWriteError(f'cannot write {path}: {error}') from error


def _write_safetensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    try:
        from safetensors.torch import save_file as write
    except ImportError as error:
        raise ConfigError('*.safetensors need safetensors: pip install safetensors') from error
    write({name: value.contiguous() for name, value in tensors.items()}, path, {'format': 'pt'})
