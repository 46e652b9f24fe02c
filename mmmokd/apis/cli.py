# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""How a command begins and ends."""

import argparse
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

from mmengine.config import DictAction
from mmengine.logging import MMLogger

import mmmokd
from mmmokd.weights.files import ALLOW_CODE

# What this package raises, with a message for people, where what it was given is wrong.
USER_ERRORS = (ValueError, FileNotFoundError, NotADirectoryError, FloatingPointError)
WEIGHTS_ONLY = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'  # of PyTorch
PACKAGE = Path(mmmokd.__file__).resolve().parent

# Of mmcv without ops, which pretraining does not need: no news to who starts a command. Here, before
# any import of mmcv.
warnings.filterwarnings('ignore', 'Fail to import ``MultiScaleDeformableAttention``')


class CfgOptions(DictAction):
    """Reads ``KEY=VALUE`` arguments; says which one is not of that form."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        for item in values:
            if '=' not in item:
                raise argparse.ArgumentError(self, f'{item!r} is not of the form KEY=VALUE')
        super().__call__(parser, namespace, values, option_string)


class AllowCode(argparse.Action):
    """Lets checkpoints be unpickled, in this process and in those that it starts."""

    def __init__(self, option_strings, dest, **kwargs) -> None:
        super().__init__(option_strings, dest, nargs=0, **kwargs)

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        os.environ[ALLOW_CODE] = '1'
        os.environ.pop(WEIGHTS_ONLY, None)


def add_checkpoint_risk(parser: argparse.ArgumentParser) -> None:
    """Add the flag without which no code of a checkpoint runs.

    Args:
        parser (argparse.ArgumentParser): Of a command that reads checkpoints.
    """
    parser.add_argument(
        '--allow-code-from-checkpoint',
        action=AllowCode,
        default=argparse.SUPPRESS,
        help='unpickle checkpoints, which RUNS ANY CODE that they hold: for files of people whom '
        'you trust (default: read weights only)',
    )


def tool_parser(description: str) -> argparse.ArgumentParser:
    """The parser of a command that runs a config, with the arguments that all of them have.

    Args:
        description (str): What the command does.

    Returns:
        argparse.ArgumentParser: With ``config``, ``--work-dir``, ``--cfg-options``, ``--launcher``,
        ``--local_rank`` and ``--allow-code-from-checkpoint``.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='folder to write to (default: work_dirs/NAME_OF_CONFIG)')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        metavar='KEY=VALUE',
        help='override values of the config, for example train_cfg.max_epochs=10 '
        'train_dataloader.batch_size=8; lists as key="[a,b]" or key=a,b',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='what starts the processes (default: %(default)s)',
    )
    parser.add_argument(
        '--local_rank',
        '--local-rank',
        type=int,
        default=int(os.environ.get('LOCAL_RANK', 0)),
        help='number of the process on its machine; launchers give it',
    )
    add_checkpoint_risk(parser)
    return parser


def is_user_error(error: BaseException) -> bool:
    """Whether an error says all that its reader needs: one of this package about its input.

    Args:
        error (BaseException): As caught.

    Returns:
        bool: True if it is of one of ``USER_ERRORS`` and was raised by a line of this package or of
        the command itself; one that rises from a library, or of another type, may be a fault to be
        traced.
    """
    frames = traceback.extract_tb(error.__traceback__)
    if not isinstance(error, USER_ERRORS) or not frames:
        return False
    raised_in = Path(frames[-1].filename).resolve()
    command = getattr(sys.modules['__main__'], '__file__', None) or sys.executable
    return PACKAGE in raised_in.parents or raised_in == Path(command).resolve()


def _keep_traceback() -> str:
    """Put the traceback into the run's log file; say where it is, or how to get it."""
    for handler in MMLogger.get_current_instance().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.emit(logging.LogRecord('', logging.ERROR, '', 0, '', None, sys.exc_info()))
            return f'traceback: {handler.baseFilename}'
    return 'MMMOKD_TRACEBACK=1 shows the traceback'


def run_tool(main: Callable[[], None]) -> None:
    """Run a command; let a mistake of its user end it with one message and status 2.

    The traceback of such an error is in the run's log file, once there is one, and on the screen if
    the environment variable ``MMMOKD_TRACEBACK`` is set. Every other error ends as Python has it.
    Checkpoints that a config names are never unpickled (``TORCH_FORCE_WEIGHTS_ONLY_LOAD``), which
    mmengine would fall back to, unless ``--allow-code-from-checkpoint`` asks for it.

    Args:
        main (Callable): The command.
    """
    if os.environ.get(ALLOW_CODE) != '1':
        os.environ.setdefault(WEIGHTS_ONLY, '1')
    try:
        main()
    except USER_ERRORS as error:
        if os.environ.get('MMMOKD_TRACEBACK') or not is_user_error(error):
            raise
        rank = f' (process {os.environ["RANK"]})' if 'RANK' in os.environ else ''
        print(f'error{rank}: {error}\n({_keep_traceback()})', file=sys.stderr)
        sys.exit(2)
