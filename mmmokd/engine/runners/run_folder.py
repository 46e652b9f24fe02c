# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Claim a folder for one run: a single process writes to it at a time."""

import errno
import json
import os
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from mmengine.config import Config

from mmmokd.engine.hooks.checkpoint_hook import POINTER
from mmmokd.utils.atomic import atomic_write, remove_parts
from mmmokd.utils.config_tree import iter_dicts
from mmmokd.utils.environment import is_first_process
from mmmokd.utils.errors import CannotWriteError, ConfigError

LOCK, HOLDER = '.run.lock', '.run.json'
ROOM = 2**18  # bytes: of the logs and the config that a run writes as it begins
LOCK_TIMEOUT = 3.0  # seconds: the data workers of a killed run also take a moment to end
FULL = (errno.ENOSPC, errno.EDQUOT)  # of a write, which does not name its file
TIMESTAMP = re.compile(r'\d{8}_\d{6}')


@contextmanager
def claim_run_folder(cfg: Config, overwrite: bool = False) -> Iterator[None]:
    """Keep a run's folder for this run, as long as the block runs.

    Of several processes the first does so for all.

    Args:
        cfg (Config): A full config, with ``work_dir``, ``launcher``, ``resume`` and ``load_from``
            as the run will have them.
        overwrite (bool): Remove what an earlier run wrote to the folder: its checkpoints, logs and
            config, and nothing else. Defaults to False.

    Raises:
        ConfigError: If the folder cannot be written to, another run writes to it, or it holds
            checkpoints of another run than the one that is resumed.
        CannotWriteError: If the disk is full as the block runs.
    """
    folders = checkpoint_folders(cfg)
    if not is_first_process(cfg.get('launcher', 'none')):
        yield
        return
    new = [folder for folder in folders if not folder.exists()]
    try:
        for folder in folders:
            check_folder(folder)
        with lock_folder(Path(cfg.work_dir)):
            name = checkpoint_pattern(cfg)
            for folder in folders:
                remove_parts(folder, lambda file: bool(name.fullmatch(file)) or file == POINTER)
            _make_room(cfg, folders, name, overwrite)
            yield
    except BaseException as error:
        _remove_unused(new)
        if isinstance(error, OSError) and error.errno in FULL and not error.filename:
            raise CannotWriteError(f'cannot write to {cfg.work_dir}: {error.strerror}') from error
        raise


def _remove_unused(folders: list[Path]) -> None:
    """Leave no folder behind of a run that ended before it wrote anything."""
    for folder in folders:
        if folder.is_dir() and {file.name for file in folder.iterdir()} <= {LOCK}:
            (folder / LOCK).unlink(missing_ok=True)
            folder.rmdir()


def check_folder(folder: str | Path) -> None:
    """Make a folder, and make sure that it can be written to, before work is put into a run.

    Args:
        folder (str | Path): The folder.

    Raises:
        ConfigError: If it cannot be made or written to.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f'cannot write to {folder}: it is a file, not a folder')
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(ROOM))
    except OSError as error:
        raise ConfigError(f'cannot write to the folder {folder}: {error.strerror}') from error


def _checkpoint_hook(cfg: Config) -> dict:
    return (cfg.get('default_hooks') or {}).get('checkpoint') or {}


def checkpoint_folders(cfg: Config) -> list[Path]:
    """Find the folder that a run writes to.

    Args:
        cfg (Config): A full config, with ``work_dir``.

    Returns:
        list[Path]: The work dir and, if the checkpoints have one of their own (``out_dir`` of their
        hook) on this machine, that one.
    """
    work_dir = Path(cfg.work_dir)
    out_dir = _checkpoint_hook(cfg).get('out_dir')
    if not out_dir or '://' in str(out_dir):
        return [work_dir]
    return [work_dir, Path(out_dir) / work_dir.resolve().name]  # as mmengine has it


def checkpoint_pattern(cfg: Config) -> re.Pattern:
    """The names of the checkpoints that a run writes, by epoch, by iteration and of the best.

    Args:
        cfg (Config): A full config.

    Returns:
        re.Pattern: Of a whole name.
    """
    own = _checkpoint_hook(cfg).get('filename_tmpl')
    names = [r'(epoch|iter)_\d+']
    if own:
        names.append(re.escape(Path(own.format('\0')).stem).replace('\0', r'\d+'))
    # -1a2b3c4d: of a checkpoint with `published_keys` alone
    return re.compile(rf'(best_.+_)?({"|".join(names)})(-[0-9a-f]{{8}})?\.pth')


@contextmanager
def lock_folder(folder: Path, option: str = '--work-dir OTHER') -> Iterator[None]:
    """Keep other runs out of a folder as long as the block runs.

    The lock is the operating system's: it ends with the process, however that ends. Where the file
    system has no locks, a warning says so.

    Args:
        folder (Path): The folder; must exist.
        option (str): How a user names another folder, for the message. Defaults to
            ``'--work-dir OTHER'``.

    Raises:
        ValueError: If another process holds it.
    """
    lock = FileLock(folder / LOCK, timeout=LOCK_TIMEOUT)
    holder = folder / HOLDER
    try:
        lock.acquire()
    except Timeout:
        raise ConfigError(
            f'another run writes to {folder}{_describe_holder(holder)}: wait for it to end, or name '
            f'another folder by {option}'
        ) from None
    except (OSError, NotImplementedError) as error:
        print(
            f'warning: {folder} cannot be locked ({error}): no other run should write to it',
            file=sys.stderr,
        )
        yield
        return
    try:
        since = time.strftime('%Y-%m-%d %H:%M:%S')
        note = dict(pid=os.getpid(), host=socket.gethostname(), since=since)
        with atomic_write(holder) as part:
            part.write_text(json.dumps(note) + '\n', encoding='utf-8')
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _describe_holder(file: Path) -> str:
    try:
        holder = json.loads(file.read_text(encoding='utf-8'))
        return f' (process {holder["pid"]} on {holder["host"]}, since {holder["since"]})'
    except (OSError, ValueError, KeyError, TypeError):  # it has just begun, or just ended
        return ''


def _make_room(cfg: Config, folders: list[Path], name: re.Pattern, overwrite: bool) -> None:
    """Refuse, or remove, the checkpoints of another run; let the folder name what is resumed."""
    old = [
        path for folder in folders for path in sorted(folder.iterdir()) if name.fullmatch(path.name)
    ]
    resumed = Path(cfg.load_from).expanduser() if cfg.get('resume') else None
    own = resumed is not None and resumed.resolve().parent in [each.resolve() for each in folders]
    if overwrite:
        _remove_run(cfg, folders, old)
    elif own:
        # A run that continues from an earlier checkpoint than its last, and is stopped before it
        # writes one, is not to continue from that last one next time.
        with atomic_write(folders[0] / POINTER) as part:
            part.write_text(str(resumed.resolve()), encoding='utf-8')
    elif old:
        more = f' and {len(old) - 1} more' if len(old) > 1 else ''
        raise ConfigError(
            f'{old[-1].parent} holds checkpoints of an earlier run ({old[-1].name}{more}): resume '
            'it with --resume, write to another folder with --work-dir OTHER, or remove it and start '
            'from scratch with --overwrite'
        )


def _remove_run(cfg: Config, folders: list[Path], checkpoints: list[Path]) -> None:
    """Remove what an earlier run wrote, unless this one needs it."""
    needed = {
        os.path.realpath(os.path.expanduser(value))
        for _, node in iter_dicts(cfg._cfg_dict)
        for value in node.values()
        if isinstance(value, str) and value
    }
    for path in checkpoints:
        if os.path.realpath(path) in needed:
            raise ConfigError(
                f'--overwrite would remove {path}, which the config reads: name another folder by '
                '--work-dir OTHER'
            )
    logs = [
        path for path in folders[0].iterdir() if path.is_dir() and TIMESTAMP.fullmatch(path.name)
    ]
    # Beside its log a run keeps a copy of its config, by which the other copy is known.
    texts = {file.read_bytes() for log in logs for file in log.glob('vis_data/config.py')}
    configs = [file for file in folders[0].glob('*.py') if file.read_bytes() in texts]
    configs = [file for file in configs if file.resolve() != Path(cfg.filename or '').resolve()]
    for path in [*checkpoints, folders[0] / POINTER, *configs, *logs]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if checkpoints:
        print(f'removed the earlier run in {folders[0]}: its checkpoints and logs')
