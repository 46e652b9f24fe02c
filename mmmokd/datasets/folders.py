# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Contents of a folder of images, without the outputs of this package."""

import os
import os.path as osp
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from mmmokd.utils.errors import DataError, MissingFileError, NotAFolderError
from mmmokd.utils.names import printable

from .remote import is_remote, list_remote

WORK_DIRS = 'work_dirs'  # where the tools write by default
QUICKSTART_RECORD = 'quickstart.json'  # in every folder that the quick start makes
EVALUATION_FILES = {'results.md', 'results.json', 'results.png'}
RUN_NAME = re.compile(r'\d{8}_\d{6}')  # mmengine names the folder of a run by its start
ARCHIVES = ('.zip', '.tar', '.tgz', '.gz', '.bz2', '.xz', '.7z', '.rar')
UNSET = re.compile(r'\$\{?(\w+)\}?')


class Found(NamedTuple):
    """Contents of a folder.

    Attributes:
        files (list[str]): Paths relative to it, '/' between their parts, sorted.
        folders (list[str]): Names of the folders right in it, sorted, empty ones too.
        own (list[str]): Folders that are left out: what training and evaluation wrote.
    """

    files: list[str]
    folders: list[str]
    own: list[str]


def find_files(root: str) -> Found:
    """All files under a folder, without hidden ones and outputs of this package.

    Args:
        root (str): The folder, or its address in a remote storage.

    Returns:
        Found: Links are followed, except back to a parent.

    Raises:
        DataError: If a folder cannot be read, or a remote storage not be listed.
    """
    if is_remote(root):
        files = list_remote(root)
        return Found(files, sorted({path.split('/', 1)[0] for path in files if '/' in path}), [])
    found = Found([], [], [])

    def visit(folder: str, prefix: str, parents: tuple[str, ...]) -> None:
        real = osp.realpath(folder)
        if real in parents:
            return
        try:
            with os.scandir(folder) as entries:
                entries = [entry for entry in entries if not entry.name.startswith('.')]
        except OSError as error:
            raise DataError(
                f'the folder {printable(folder)} cannot be read: {error.strerror}. Change its '
                'permissions, or move it out of the folder of images'
            ) from error
        if prefix and is_own_output(folder, [entry.name for entry in entries]):
            found.own.append(prefix[:-1])
            return
        if prefix and '/' not in prefix[:-1]:
            found.folders.append(prefix[:-1])
        for entry in entries:
            if entry.is_dir():
                visit(entry.path, f'{prefix}{entry.name}/', (*parents, real))
            else:
                found.files.append(prefix + entry.name)

    visit(root, '', ())
    for names in found:
        names.sort()
    return found


def is_own_output(folder: str, names: Sequence[str]) -> bool:
    """Check whether a folder holds what training, evaluation or the quick start wrote.

    Args:
        folder (str): Its path.
        names (Sequence[str]): Of what is in it.

    Returns:
        bool: True of ``work_dirs``, of the work dir of a run and what is in it, of the results of
        an evaluation, and of a folder of the quick start.
    """
    name = osp.basename(folder)
    if name == WORK_DIRS or QUICKSTART_RECORD in names or EVALUATION_FILES <= set(names):
        return True
    if RUN_NAME.fullmatch(name) and {'vis_data', f'{name}.log'} & set(names):
        return True
    runs = [run for run in names if RUN_NAME.fullmatch(run)]
    return any(
        osp.isfile(osp.join(folder, run, f'{run}.log'))
        or osp.isdir(osp.join(folder, run, 'vis_data'))
        for run in runs
    )


def split_roots(data_root: Any) -> list[str]:
    """The folders that ``data_root`` names.

    Args:
        data_root (str | os.PathLike | Sequence): A folder, or several as a list or in one text with
            commas between them. '~' and environment variables are expanded.

    Returns:
        list[str]: Their paths, none for ''.

    Raises:
        DataError: If it names something else, or one of them lies within another.
    """
    given = list(data_root) if isinstance(data_root, list | tuple) else [data_root]
    if not all(isinstance(root, str | os.PathLike) for root in given):
        raise DataError(f'data_root must be a folder or a list of folders, but got {data_root!r}')
    roots = [expand_path(os.fspath(root)) for root in given]
    if len(roots) == 1 and ',' in roots[0] and not osp.exists(roots[0]):
        parts = [expand_path(part.strip()) for part in roots[0].split(',')]
        # A folder may have a comma in its name, also one that does not exist.
        if any(is_remote(part) or osp.isdir(part) for part in parts):
            roots = [part for part in parts if part]
    roots = [root for root in roots if root]
    if isinstance(data_root, list | tuple) and not roots:
        raise DataError('data_root is an empty list: name at least one folder of images')
    _check_apart(roots)
    return roots


def expand_path(path: str) -> str:
    """A path with '~' and environment variables replaced.

    Args:
        path (str): A path, or an address; of 'file://' the path.

    Returns:
        str: The name of an existing file or folder is unchanged.
    """
    if path.startswith('file://'):
        path = path[len('file://') :]
    if is_remote(path):
        return path.rstrip('/')
    path = osp.expanduser(path)
    return path if osp.exists(path) else osp.expandvars(path)


def _check_apart(roots: list[str]) -> None:
    """Raise if a folder would be read twice."""
    real = [root if is_remote(root) else osp.realpath(root) for root in roots]
    for i, inner in enumerate(real):
        for j, outer in enumerate(real):
            if i != j and f'{inner}/'.startswith(f'{outer}/'):
                raise DataError(
                    f'data_root names {printable(roots[i])} twice: it is, or is in, '
                    f'{printable(roots[j])}'
                )


def join_paths(folder: str, path: str) -> str:
    """A path below a folder.

    Args:
        folder (str): A folder, or the address of one; may be ''.
        path (str): Relative to it, or absolute; may be ''.

    Returns:
        str: The path; itself if it is absolute, and the folder if it is ''.
    """
    if not path or not folder or is_remote(path):
        return path or folder
    return f'{folder.rstrip("/")}/{path}' if is_remote(folder) else osp.join(folder, path)


def check_folder(path: str, extensions: Sequence[str]) -> None:
    """Raise if there is no folder of a name.

    Args:
        path (str): The folder.
        extensions (Sequence[str]): Endings of images.

    Raises:
        MissingFileError: If it does not exist.
        NotADirectoryError: If it is a file; says what to do with one of its kind.
    """
    folder = osp.abspath(path)
    if osp.isfile(folder):
        ending = osp.splitext(folder)[1].lower()
        hint = 'Set data_root to a folder; a list of images goes into ann_file.'
        if ending in ARCHIVES:
            hint = 'Unpack it, and set data_root to the folder.'
        elif ending in extensions:
            hint = f'Set data_root to the folder of many of them, such as {osp.dirname(folder)}.'
        raise NotAFolderError(
            f'The folder of images, {printable(folder)}, is a file. {printable(hint)}'
        )
    if not osp.isdir(folder):
        unset = [name for name in UNSET.findall(path) if name not in os.environ]
        why = f' The environment variable {unset[0]} is not set.' if unset else ''
        link = ' It is a link to what does not exist.' if osp.islink(folder) else ''
        raise MissingFileError(
            f'The folder of images, {printable(folder)}, does not exist.{why}{link}'
        )
