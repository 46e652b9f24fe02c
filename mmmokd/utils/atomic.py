# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Files and folders that are written whole or not at all."""

import errno
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import CannotWriteError

# .NAME.1f2e3d4c.part: hidden, beside the file that it becomes.
PART = re.compile(r'\.(?P<name>.+)\.[0-9a-f]{8}\.part')
# fsync of a file system that has nothing to sync, or of a folder where that cannot be done.
NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Write a file, or a new folder, that is whole or does not exist.

    The new content is written beside the target and takes its place once it is on the disk. What
    existed before stays as it is if the block raises, the disk is full, or the process is killed.

    Args:
        path (str | Path): The file or folder; its parent folder must exist. If it is a link, what it
            points to is replaced. A device or pipe is written to directly. A folder can take the
            place of an empty folder only.

    Yields:
        Path: Where to write the file, or to make the folder; does not exist yet.

    Raises:
        CannotWriteError: If the block, or putting the target into its place, fails with an OSError.

    Example:
        >>> with atomic_write('results.json') as part:
        ...     part.write_text('{}', encoding='utf-8')
    """
    path = Path(path).expanduser()
    target = Path(os.path.realpath(path))
    special = target.exists() and not target.is_file()
    part = target.with_name(f'.{target.name}.{uuid.uuid4().hex[:8]}.part')
    if special and not target.is_dir():
        part = target
    try:
        yield part
        if part != target:
            _sync(part)
            os.replace(part, target)
            with suppress(
                OSError
            ):  # of the folder, so that the file's new name survives a power cut
                _sync(target.parent)
    except OSError as error:
        raise CannotWriteError(explain_os_error(error, path)) from error
    finally:
        if part != target:
            with suppress(OSError):
                _remove(part)


def explain_os_error(error: OSError, path: str | Path | None = None) -> str:
    """Say which file could not be written, and why.

    Args:
        error (OSError): As caught.
        path (str | Path, optional): The file, as its user knows it. Defaults to None: the one that
            the error names.

    Returns:
        str: One sentence, without a full stop.
    """
    path = path or error.filename
    return f'cannot write{f" {path}" if path else ""}: {error.strerror or error}'


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def remove_parts(folder: str | Path, is_ours: Callable[[str], bool]) -> list[Path]:
    """Remove what :func:`atomic_write` left in a folder as its process was killed.

    Args:
        folder (str | Path): The folder; need not exist. No other process may be writing to it.
        is_ours (Callable): Whether a file of this name is to be looked at.

    Returns:
        list[Path]: What was removed.
    """
    folder = Path(folder)
    named = [(path, PART.fullmatch(path.name)) for path in folder.glob('.*.part')]
    parts = [path for path, match in named if match and is_ours(match['name'])]
    for path in parts:
        _remove(path)
    return parts
