# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Images in remote storages, by fsspec: s3://, gs://, hf://, memory:// and others."""

import importlib.util

from mmengine.fileio import get_file_backend

from mmmokd.utils.errors import DataError, MissingFileError

# What mmengine reads one by one; they have no folders that could be listed.
WEB = ('http', 'https')


def is_remote(path: str) -> bool:
    """Check whether a path is an address, not one of a file system.

    Args:
        path (str): A path.

    Returns:
        bool: True of 's3://bucket/folder' and the like.
    """
    return '://' in path


def list_remote(root: str) -> list[str]:
    """All files under a remote folder.

    Args:
        root (str): Its address.

    Returns:
        list[str]: Their paths below it, with '/' between the parts, sorted, without hidden ones.

    Raises:
        MissingFileError: If there are none.
        DataError: If the storage is not known, cannot be reached, has no folders, or needs a
            library that is not installed; names it.
    """
    protocol = root.partition('://')[0]
    if protocol in WEB:
        raise DataError(
            f'{root}: a web address has no folder that could be listed. Download the images, or '
            'list their addresses, one a line, in a file: ann_file=/my/list.txt'
        )
    if _by_mmengine(protocol):
        backend = get_file_backend(root, enable_singleton=True)
        found = list(backend.list_dir_or_file(root, list_dir=False, recursive=True))
    else:
        system, place = _open_storage(root)
        try:
            full = system.find(place)
        except Exception as error:  # every storage has errors of its own
            raise DataError(f'cannot list {root}: {type(error).__name__}: {error}') from error
        start = len(system._strip_protocol(place).rstrip('/')) + 1
        found = [path[start:] for path in full]
    found = sorted(path for path in found if not any(x.startswith('.') for x in path.split('/')))
    if not found:
        raise MissingFileError(f'The folder of images, {root}, does not exist, or is empty.')
    return found


def read_remote(path: str) -> bytes | None:
    """A remote file's content.

    Args:
        path (str): Its address.

    Returns:
        bytes | None: All of it; None if mmengine's own file backends are to read it.

    Raises:
        DataError: As :func:`list_remote` has it.
        Exception: What the storage raises where it cannot be read.
    """
    protocol = path.partition('://')[0]
    if protocol in WEB or _by_mmengine(protocol):
        return None
    # Not kept: workers are forked, and what fsspec keeps it keeps by process.
    system, place = _open_storage(path)
    return system.cat_file(place)


def _by_mmengine(protocol: str) -> bool:
    """Check whether a client for mmengine's own backend is installed."""
    name = protocol.rpartition(':')[2]
    return name in ('s3', 'petrel') and importlib.util.find_spec('petrel_client') is not None


def _open_storage(path: str):
    """The file system of an address, and its place there."""
    import fsspec  # not needed by most

    protocol = path.partition('://')[0]
    try:
        return fsspec.core.url_to_fs(path)
    except ImportError as error:
        raise DataError(
            f'{path}: images at {protocol}:// are read by a library that is not installed ({error}). '
            'Install it by pip, or download the images'
        ) from error
    except ValueError as error:
        raise DataError(f'{path}: no storage is known for {protocol}:// ({error})') from error
