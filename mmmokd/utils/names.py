# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Names for messages: of files that are hard to print, and of what was meant by a mistyped one."""

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path


def printable(name: str) -> str:
    """A file's name as a log can hold it.

    Args:
        name (str): Any name; on Linux it may hold line breaks and bytes that are not text.

    Returns:
        str: The name, such characters written as ``'\\n'`` or ``'\\udcff'``.
    """
    if name.isprintable():
        return name
    return ''.join(
        letter if letter.isprintable() else letter.encode('unicode_escape').decode()
        for letter in name
    )


def nearest(key: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Hint at what was meant, for the end of a message.

    Args:
        key (str): The name that was found.
        known (Iterable[str]): The names that exist.
        cutoff (float): How near a name must be, 1 for equal. Defaults to 0.6.

    Returns:
        str: ``' Did you mean NAME?'``, or nothing if no name is near.
    """
    similar = difflib.get_close_matches(key, sorted(map(str, known)), n=1, cutoff=cutoff)
    return f' Did you mean {similar[0]}?' if similar else ''


def missing_file_message(path: Path, what: str, suffix: str, trees: Sequence[Path] = ()) -> str:
    """Say that a file does not exist, and which ones with a similar name are.

    Args:
        path (Path): The path that was given.
        what (str): What it should be, for example ``'config'``.
        suffix (str): Suffix of such files, for example ``'.py'``.
        trees (Sequence[Path]): Folders to search with all below them, besides the path's own folder,
            which may be a large one and is searched one folder deep. Defaults to ().

    Returns:
        str: One line.
    """
    files = [file for pattern in ('*', '*/*') for file in path.parent.glob(pattern + suffix)]
    files += [file for tree in trees for file in tree.rglob(f'*{suffix}')]
    found = {file.name: file for file in sorted(files) if '_base_' not in file.parts}
    similar = [str(found[name]) for name in difflib.get_close_matches(path.name, found, 3, 0.5)]
    kind = 'is a folder, not a file' if path.is_dir() else 'does not exist'
    return f'{what} {path} {kind}.' + (f' Did you mean {" or ".join(similar)}?' if similar else '')
