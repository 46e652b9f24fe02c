# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Explain errors in one message."""

import errno
import re

from mmmokd.engine.runners.shared_memory import explain_exhausted
from mmmokd.utils.atomic import explain_os_error
from mmmokd.utils.errors import UserError

# Of a file that its user named, and of a disk, whoever reads or writes.
FILE_ERRORS = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
# Packages that only some configs need, and how to install them.
OPTIONAL = {
    'mlflow': 'bash tools/setup_env.sh loggers, or pip install mlflow',
    'mmdet': 'bash tools/setup_env.sh det',
    'mmseg': 'bash tools/setup_env.sh seg',
    'pycocotools': 'bash tools/setup_env.sh det, or pip install pycocotools',
    'tensorboard': 'pip install tensorboard',
    'timm': 'bash tools/setup_env.sh optional, or pip install timm',
    'transformers': "pip install 'transformers>=4.53,<5'",
    'wandb': 'bash tools/setup_env.sh loggers, or pip install wandb',
}
IN_WORKER = re.compile(r'Caught \w+ in DataLoader worker process \d+\.\n')


def explain_error(error: BaseException) -> str | None:
    """Explain an error to the user who started a command.

    Args:
        error (BaseException): As caught; also one from a worker of a dataloader.

    Returns:
        str, optional: One message, of a :class:`~mmmokd.utils.errors.UserError`, a file that cannot
        be opened, a full disk or shared memory, or a package that only some configs need; None if
        the error may be a fault to be traced.
    """
    if isinstance(error, ImportError):
        return _explain_import(error)
    if message := explain_exhausted(error):
        return message
    if isinstance(error, UserError):
        text = str(error)
        wrapped = IN_WORKER.match(text)
        return text.rpartition(f'{type(error).__name__}: ')[2].rstrip() if wrapped else text
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return explain_os_error(error)
    if isinstance(error, FILE_ERRORS) and error.filename:
        return f'{error.filename}: {error.strerror}'
    return None


def _explain_import(error: ImportError) -> str | None:
    """A package that only some configs need, and that is not installed or broken."""
    while isinstance(error.__context__, ImportError):  # a library says it in its own words
        error = error.__context__
    text = str(error)
    names = [(error.name or '').partition('.')[0], *re.findall(r'[\w-]+', text)]
    for name in names:
        if name in OPTIONAL:
            return f'the config needs {name}, which cannot be imported ({text}): {OPTIONAL[name]}'
    return None
