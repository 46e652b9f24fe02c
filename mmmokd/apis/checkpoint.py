# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import difflib
import os
import pickle
import re
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner.checkpoint import get_torch_safe_globals
from torch import nn

from mmmokd.utils.state_dict import load_state_dict_strict, name_some

RESUME_KEYS = ('meta', 'message_hub', 'optimizer')


def _history_method(cls: type, name: str) -> Any:
    """The only ``getattr`` that a checkpoint of mmengine needs: a HistoryBuffer's statistics."""
    if cls is not HistoryBuffer or name.startswith('_'):
        raise pickle.UnpicklingError(f'getattr({cls}, {name!r})')
    return getattr(cls, name)


def _safe_globals() -> list:
    """What a checkpoint of mmengine holds besides tensors: the log's history, in NumPy arrays."""
    allowed = [item for item in get_torch_safe_globals() if item is not getattr]
    return [*allowed, (_history_method, 'builtins.getattr')]


def missing_file_message(path: Path, what: str, suffix: str, places: list[Path]) -> str:
    """Say that a file is not there, and which ones with a similar name are.

    Args:
        path (Path): The path that was given.
        what (str): What it should be, for example ``'config'``.
        suffix (str): Suffix of such files, for example ``'.py'``.
        places (list[Path]): Folders to search, with all below them.

    Returns:
        str: One line.
    """
    files = (file for place in places for file in sorted(place.rglob(f'*{suffix}')))
    found = {file.name: file for file in files if '_base_' not in file.parts}
    similar = [str(found[name]) for name in difflib.get_close_matches(path.name, found, 3, 0.5)]
    kind = 'is a folder, not a file' if path.is_dir() else 'is not there'
    return f'{what} {path} {kind}.' + (f' Did you mean {" or ".join(similar)}?' if similar else '')


def read_file(path: str | Path, map_location: str = 'cpu', allowed: Sequence[type] = ()) -> Any:
    """Read what ``torch.save`` wrote, without running any code that the file may hold.

    Args:
        path (str | Path): A local file.
        map_location (str): Device to put tensors on. Defaults to 'cpu'.
        allowed (Sequence[type]): Classes whose objects the file may hold besides tensors, numbers,
            texts, their collections and mmengine's log history; only such that do nothing when they
            are made. Defaults to none.

    Returns:
        Any: The file's contents. Tensors of a file in today's format are mapped, not read, until
        they are used.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a complete file of ``torch.save``, or holds other objects.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        places = [path.parent] if path.parent.is_dir() else []
        raise FileNotFoundError(missing_file_message(path, 'checkpoint', path.suffix, places))
    try:
        with torch.serialization.safe_globals([*_safe_globals(), *allowed]):
            return torch.load(path, map_location, weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        what = re.search(r'GLOBAL [\w.]+|getattr\(.*?\)', str(error))
        raise ValueError(
            f'checkpoint {path} is refused: it is no PyTorch file, or it holds Python objects '
            f'({what[0] if what else "unknown"}), and reading those can run any code'
        ) from error
    except (RuntimeError, EOFError) as error:
        raise ValueError(f'checkpoint {path} is damaged or no checkpoint: {error}') from error
    except OSError as error:
        raise ValueError(f'checkpoint {path} cannot be read: {error.strerror}') from error


def read_checkpoint(path: str | Path, map_location: str = 'cpu') -> dict[str, Any]:
    """Read a checkpoint as :func:`read_file` does.

    Args:
        path (str | Path): A local file as mmengine, or ``torch.save`` of weights, writes it.
        map_location (str): Device to put tensors on. Defaults to 'cpu'.

    Returns:
        dict: The file's contents, with the weights in ``'state_dict'``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read safely, or has no weights.
    """
    checkpoint = read_file(path, map_location)
    if isinstance(checkpoint, dict) and 'state_dict' not in checkpoint:
        checkpoint = {'state_dict': checkpoint}
    weights = checkpoint['state_dict'] if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict) or not any(map(torch.is_tensor, weights.values())):
        raise ValueError(f'checkpoint {path} holds no weights')
    return checkpoint


def check_target(path: str | Path, overwrite: bool = False) -> Path:
    """Make sure that a file can be made, before work is put into what it is to hold.

    Args:
        path (str | Path): The file.
        overwrite (bool): Whether it may be there already. Defaults to False.

    Returns:
        Path: The file, in a folder that is there: made, if it was not.

    Raises:
        ValueError: If it is there and must not be, or if its folder cannot be written to.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise ValueError(f'{path} is a folder: name the file to write')
    if path.exists() and not overwrite:
        raise ValueError(f'{path} is there already: name another file, or overwrite it by --force')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            return path
    except OSError as error:
        raise ValueError(f'cannot write to the folder {path.parent}: {error.strerror}') from error


def save_file(content: Any, path: str | Path, overwrite: bool = False) -> None:
    """``torch.save``, after which the file is whole or, where it was not, still not there.

    Args:
        content (Any): What ``torch.save`` takes.
        path (str | Path): The file; its folder is made.
        overwrite (bool): Whether to replace a file that is there. Defaults to False.

    Raises:
        ValueError: If the file is there and must not be, or cannot be written.
    """
    path = check_target(path, overwrite)
    part = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        torch.save(content, part)
        os.replace(part, path)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into the latter
        raise ValueError(f'cannot write {path}: {error}') from error
    finally:
        part.unlink(missing_ok=True)


def load_checkpoint_strict(
    model: nn.Module, path: str | Path, prefix: str = '', map_location: str = 'cpu'
) -> dict[str, Any]:
    """Load a checkpoint's weights into a model, every one of whose weights must be there.

    Args:
        model (nn.Module): The model.
        path (str | Path): The checkpoint, a local file.
        prefix (str): Load the weights below this name only, for example
            ``'branches.cnn.teacher.backbone.'``. Defaults to '', all of them.
        map_location (str): Device to read to. Defaults to 'cpu'.

    Returns:
        dict: The checkpoint's contents.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read safely, has nothing below ``prefix``, or lacks a weight of
            the model.
    """
    checkpoint = read_checkpoint(path, map_location)
    everything = checkpoint['state_dict']
    weights = {
        key[len(prefix) :]: value for key, value in everything.items() if key.startswith(prefix)
    }
    if not weights:
        raise ValueError(
            f'checkpoint {path} has nothing below {prefix!r}, but {name_some(list(everything))}'
        )
    unexpected = load_state_dict_strict(model, weights, f'checkpoint {path}')
    if unexpected:
        print_log(
            f'{len(unexpected)} weights of {path} are not in {type(model).__name__} and were left '
            f'out: {name_some(unexpected)}',
            logger='current',
            level=30,
        )
    return checkpoint


def check_resumable(path: str | Path) -> None:
    """Make sure that a training run can go on from a checkpoint.

    Args:
        path (str | Path): The checkpoint, a local file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read safely or holds no state of training.
    """
    checkpoint = read_checkpoint(path)
    lacks = [key for key in RESUME_KEYS if key not in checkpoint]
    if lacks:
        raise ValueError(
            f'cannot resume from checkpoint {path}: it has no {" and no ".join(lacks)}. To begin '
            f'with its weights, give --cfg-options load_from={path} instead of --resume'
        )


def find_resume_checkpoint(work_dir: str | Path) -> Path | None:
    """The newest checkpoint in a work_dir that is complete.

    A run that was killed as it wrote a checkpoint leaves part of a file, and a ``last_checkpoint``
    that names the one before it, or that is itself cut short. So: the file that ``last_checkpoint``
    names, if it is complete, else the newest complete ``epoch_*.pth`` or ``iter_*.pth``.

    Args:
        work_dir (str | Path): The run's folder; need not exist.

    Returns:
        Path | None: The checkpoint; None if the folder holds none at all.

    Raises:
        ValueError: If the folder holds checkpoints and none is complete.
    """
    work_dir = Path(work_dir)
    candidates = [*work_dir.glob('epoch_*.pth'), *work_dir.glob('iter_*.pth')]
    candidates.sort(key=lambda file: file.stat().st_mtime, reverse=True)
    pointer = work_dir / 'last_checkpoint'
    if pointer.is_file():
        # By name alone: the folder may have been moved since. It may also be outside (out_dir).
        named = Path(pointer.read_text().strip())
        candidates = [work_dir / named.name, named, *candidates]
    present = [file for file in candidates if file.is_file()]
    for file in present:
        if zipfile.is_zipfile(file):
            return file
        print_log(f'{file} is cut short and left out', logger='current', level=30)
    if present:
        raise ValueError(f'none of the {len(set(present))} checkpoints in {work_dir} is complete')
    return None
