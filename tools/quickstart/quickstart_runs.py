# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""What tells one run of the quick start from another: none is answered with another's results."""

import fcntl
import hashlib
import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from mmengine.config import Config

import mmmokd
from mmmokd.utils.atomic import atomic_write

RECORD = 'quickstart.json'  # in a folder that the quick start makes: what it is made of


def hash_text(text: str) -> str:
    """SHA-256 of a text.

    Args:
        text (str): The text.

    Returns:
        str: In hexadecimal digits.
    """
    return hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()


def hash_files(folder: Path, pattern: str) -> str:
    """SHA-256 of the files below a folder: their names and contents, not the folder's place.

    Args:
        folder (Path): The folder.
        pattern (str): Of the files' names, for example ``'*.png'``.

    Returns:
        str: In hexadecimal digits.
    """
    files = sorted(file for file in folder.rglob(pattern) if file.is_file())
    lines = [
        f'{file.relative_to(folder).as_posix()}\0{hashlib.sha256(file.read_bytes()).hexdigest()}'
        for file in files
    ]
    return hash_text('\n'.join(lines))


def hash_code() -> str:
    """SHA-256 of this package: what other code gave is another result.

    Returns:
        str: In hexadecimal digits.
    """
    return hash_files(Path(mmmokd.__file__).parent, '*.py')


def read_record(folder: Path) -> dict[str, Any] | None:
    """What a folder is made of.

    Args:
        folder (Path): The folder; need not exist.

    Returns:
        dict | None: As :func:`write_record` wrote it; None if nothing did.
    """
    file = folder / RECORD
    return json.loads(file.read_text(encoding='utf-8')) if file.is_file() else None


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Note what a folder is made of, wholly or not at all.

    Args:
        folder (Path): The folder; made if it does not exist.
        record (dict): Anything that JSON holds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / RECORD) as part:
        part.write_text(json.dumps(record, indent=2) + '\n', encoding='utf-8')


@contextmanager
def lock(out: Path) -> Iterator[TextIO]:
    """Keep a second quick start out of a folder.

    Args:
        out (Path): The folder; made if it does not exist.

    Yields:
        TextIO: The open lock. A process that inherits it holds it, too, until it ends.

    Raises:
        ValueError: If another process holds it.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / '.lock').open('a') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f'another quick start, or a training that it began, writes to {out}: wait for it '
                'to end, or name another folder by --out'
            ) from None
        yield file


def claim_run(folder: Path, record: dict[str, Any]) -> None:
    """Make sure that a folder holds one run and nothing of another.

    What is there of another run is kept beside it, as ``NAME.old1`` and so on, and one line says
    so. What is there of the same run stays, to be resumed.

    Args:
        folder (Path): The run's folder; need not exist.
        record (dict): What makes it this run: config, settings, images, code.
    """
    found = read_record(folder)
    if found == record:
        return
    if folder.exists() and (found is not None or any(folder.iterdir())):
        number = 1
        while (kept := folder.with_name(f'{folder.name}.old{number}')).exists():
            number += 1
        folder.rename(kept)
        if found is None:
            why = 'other files'
        else:
            keys = [key for key in {**found, **record} if found.get(key) != record.get(key)]
            why = f'another run ({", ".join(keys)} differ{"s" * (len(keys) == 1)})'
        print(
            f'{folder} holds {why}: kept as {kept.name}; this run starts from scratch', flush=True
        )
    write_record(folder, record)


def drop_unusable_checkpoints(folder: Path, cfg: Config, validate: bool) -> None:
    """Remove the checkpoints that a run should not continue from, so that it takes the one before.

    A run that was cut off may have left part of a file; or a whole one whose validation is missing,
    which a resumed run would not make up for: the last accuracy would be that of an earlier epoch.

    Args:
        folder (Path): The run's folder.
        cfg (Config): Its config, for the epochs that are validated.
        validate (bool): Whether it validates.
    """
    from mmmokd.visualization import read_scalars  # here: the command reads its arguments first

    checkpoints = {int(file.stem[6:]): file for file in folder.glob('epoch_*.pth')}
    logged = any(folder.glob('*/vis_data/scalars.json'))
    curves = read_scalars(folder).val.values() if logged else ()
    validated = {epoch for points in curves for epoch, _ in points}
    last, interval = cfg.train_cfg.max_epochs, cfg.train_cfg.val_interval
    for epoch, file in checkpoints.items():
        due = validate and (epoch % interval == 0 or epoch == last)
        if (due and epoch not in validated) or not zipfile.is_zipfile(file):
            os.remove(file)
            print(f'{file} was cut off before its end or its validation: left out', flush=True)
