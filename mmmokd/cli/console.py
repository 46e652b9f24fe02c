# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Keep the console of a command to what its user wants to know; the log file has the rest."""

import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import mmengine.logging
from mmengine.logging import MMLogger, print_log

from mmmokd.utils.environment import VERBOSE

# How messages begin that are for the log file. Of mmengine: the environment, the whole config, the
# order of hooks, how every parameter was initialized, names of its own that will change. Of mmcv:
# what it was built without. A message of this package is none of these.
BACKGROUND = re.compile(
    r'\s*(?:'
    r'-+\s+System environment:'
    r'|Config:\n'
    r'|Hooks will be executed in the following order:'
    r'|[\w.]+ - torch\.Size\('
    r'|"FileClient" will be deprecated'
    r'|"HardDiskBackend" is the alias'
    r'|Line NMS is not compiled'
    r'|The prefix is not set in metric class'
    r'|Exp name: '
    r'|Checkpoints will be saved to '
    r'|Distributed training is not used, all SyncBatchNorm'
    r')'
)
# Warnings of libraries about their own insides: category, how the message begins, module.
WARNINGS = (
    # mmcv without operators, which pretraining does not need.
    (UserWarning, 'Fail to import ``MultiScaleDeformableAttention``', 'mmcv'),
    # Nothing writes to the images that mmpretrain's MNIST reads.
    (UserWarning, 'The given NumPy array is not writable', r'mmpretrain\.datasets\.mnist'),
    # Of mmdet and mmseg: of a metric that a config would have to name, and would miss; of a hook that
    # does nothing unless asked to; of a default.
    (UserWarning, 'faster_coco_eval is not installed', r'mmdet\.evaluation'),
    (UserWarning, 'The draw is False', r'mmseg\.engine\.hooks'),
    (UserWarning, 'Default ``avg_non_ignore`` is False', r'mmseg\.models\.losses'),
    # The first line of a run says how many threads, workers and CPUs there are.
    (UserWarning, 'Setting (OMP|MKL)_NUM_THREADS environment variable', r'mmengine\.utils'),
    (UserWarning, 'This DataLoader will create', r'torch\.utils\.data\.dataloader'),
)


def is_background(record: logging.LogRecord) -> bool:
    """Tell whether a message is for the log file alone.

    Args:
        record (logging.LogRecord): Of any logger of mmengine.

    Returns:
        bool: True of what mmengine tells of itself below the level of an error.
    """
    return record.levelno < logging.ERROR and bool(BACKGROUND.match(str(record.msg)))


def _call_handlers(logger: MMLogger, record: logging.LogRecord) -> None:
    """``MMLogger.callHandlers``, which spares the console what is for the file."""
    background = is_background(record)
    for handler in logger.handlers:
        to_file = isinstance(handler, logging.FileHandler)
        if background and not to_file and handler.level > logging.DEBUG:
            continue
        if record.levelno >= handler.level:
            handler.handle(record)


def _print_log(msg, logger=None, level: int = logging.INFO) -> None:
    """``mmengine.logging.print_log``, which prints no message of level DEBUG that has no logger."""
    if logger is not None or level > logging.DEBUG:
        print_log(msg, logger, level)


@contextmanager
def quiet_console() -> Iterator[None]:
    """Keep off the console, while a command runs, what libraries tell of themselves.

    The log file of a run is not touched. Nothing is kept off where the environment variable
    ``MMMOKD_VERBOSE`` is set, and no message of a run whose ``log_level`` is ``'DEBUG'``.
    """
    if os.environ.get(VERBOSE):
        yield
        return
    call_handlers = MMLogger.callHandlers
    # By name: mmdet, which is imported later, takes it from there.
    MMLogger.callHandlers, mmengine.logging.print_log = _call_handlers, _print_log
    try:
        with warnings.catch_warnings():
            for category, message, module in WARNINGS:
                warnings.filterwarnings('ignore', message, category, module)
            yield
    finally:
        MMLogger.callHandlers, mmengine.logging.print_log = call_handlers, print_log
