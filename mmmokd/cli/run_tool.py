# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Begin and end a command. Light to import: a command reads its arguments first."""

import argparse
import ast
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from mmengine.config import DictAction
from mmengine.logging import MMLogger

from mmmokd.cli.console import quiet_console
from mmmokd.cli.stop_signals import end_interrupted, interruptible
from mmmokd.utils.cpu import set_wait_policy
from mmmokd.utils.environment import ALLOW_CODE, TRACEBACK, WEIGHTS_ONLY

# A blank inside a text of a list, which mmengine's parser would drop.
INNER_BLANK = re.compile(r'[^\s,(\[] +[^\s,)\]]')


class CfgOptions(DictAction):
    """Reads ``KEY=VALUE`` arguments as mmengine does; refuses what that would misunderstand.

    A value in quotes of its own, as in ``KEY='"a, b"'``, is a text. So is one value with blanks, and
    the name of a file that exists.
    """

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        options = dict(getattr(namespace, self.dest, None) or {})
        for item in values:
            key, equals, text = item.partition('=')
            if not equals or not all(part.strip() for part in key.split('.')):
                raise argparse.ArgumentError(self, f'{item!r} is not of the form KEY=VALUE')
            options[key] = self._read(item, text.strip())
        setattr(namespace, self.dest, options)
        texts = getattr(namespace, f'{self.dest}_text', None) or []
        setattr(namespace, f'{self.dest}_text', [*texts, *values])

    def _read(self, item: str, text: str) -> Any:
        in_brackets = text[:1] in ('(', '[')
        if text[:1] in ('"', "'") and text[-1:] == text[:1]:
            return text[1:-1]
        if not in_brackets and (',' not in text or os.path.exists(os.path.expanduser(text))):
            return self._parse_int_float_bool(text)
        if in_brackets and ('"' in text or "'" in text):
            with suppress(ValueError, SyntaxError):  # of Python, texts in quotes
                return ast.literal_eval(text)
        with suppress(AssertionError):  # of brackets that do not close
            if not INNER_BLANK.search(text):
                return self._parse_iterable(text)
        raise argparse.ArgumentError(
            self,
            f'{item!r} may be a text or a list: quote the text, as in KEY=\'"a, b"\', or all texts '
            'of the list, as in KEY=\'["a b", "c"]\'',
        )


class ToolParser(argparse.ArgumentParser):
    """Also tells torchrun what is wrong with the arguments."""

    def error(self, message: str) -> NoReturn:
        _tell_launcher(f'error: {message}')
        super().error(message)


class AllowCode(argparse.Action):
    """Allows unpickling checkpoints, in this process and in those that it starts."""

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
        help='unpickle checkpoints, which EXECUTES ANY CODE in them: for files from sources that '
        'you trust (default: read weights only)',
    )


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add the values that override those of a config.

    They come as ``cfg_options``, a dict or None; where they were given, as written, in
    ``cfg_options_text`` as well.

    Args:
        parser (argparse.ArgumentParser): Of a command that reads a config.
    """
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        metavar='KEY=VALUE',
        help='override values of the config, for example train_cfg.max_epochs=10 '
        'train_dataloader.batch_size=8; lists as key="[a,b]" or key=a,b, '
        'a text with commas as key=\'"a, b"\'',
    )


def tool_parser(description: str) -> argparse.ArgumentParser:
    """The parser of a command that runs a config, with the arguments that all of them have.

    Args:
        description (str): What the command does.

    Returns:
        argparse.ArgumentParser: With ``config``, ``--work-dir``, ``--cfg-options``, ``--launcher``,
        ``--local_rank`` and ``--allow-code-from-checkpoint``.
    """
    parser = ToolParser(description=description)
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='folder to write to (default: work_dirs/NAME_OF_CONFIG)')
    add_cfg_options(parser)
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


def _keep_traceback() -> str:
    """Put the traceback into the run's log file; say where it is, or how to get it."""
    for handler in MMLogger.get_current_instance().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.emit(logging.LogRecord('', logging.ERROR, '', 0, '', None, sys.exc_info()))
            return f'traceback: {handler.baseFilename}'
    return f'{TRACEBACK}=1 shows the traceback'


def _tell_launcher(message: str) -> None:
    """Leave the message where torchrun looks for what ended a process, if it started this one."""
    if path := os.environ.get('TORCHELASTIC_ERROR_FILE'):
        extra = dict(py_callstack=message, timestamp=int(time.time()))
        content = json.dumps(dict(message=dict(message=message, extraInfo=extra)))
        with suppress(OSError):  # a full disk, which may be what the message is about
            Path(path).write_text(content, encoding='utf-8')


@quiet_console()
def run_tool(main: Callable[[], None]) -> None:
    """Run a command; let a mistake of its user end it with one message and status 2.

    The traceback of such an error is in the run's log file, once there is one, and on the screen if
    the environment variable ``MMMOKD_TRACEBACK`` is set; torchrun gets the message for its report.
    Every other error ends as Python has it. Ctrl-C and SIGTERM end it with one message and the status
    of the signal, 130 or 143.
    Checkpoints that a config names are never unpickled (``TORCH_FORCE_WEIGHTS_ONLY_LOAD``), which
    mmengine would fall back to, unless ``--allow-code-from-checkpoint`` asks for it.

    Args:
        main (Callable): The command.
    """
    set_wait_policy()
    if os.environ.get(ALLOW_CODE) != '1':
        os.environ.setdefault(WEIGHTS_ONLY, '1')
    # Else every line that a full disk keeps from the log file would be 30 lines on the screen.
    logging.raiseExceptions = 'MMMOKD_TRACEBACK' in os.environ
    try:
        with interruptible():
            main()
    except KeyboardInterrupt as error:
        end_interrupted(error, _tell_launcher)
    except Exception as error:
        from mmmokd.cli.errors import explain_error

        message = None if os.environ.get(TRACEBACK) else explain_error(error)
        if message is None:
            raise
        rank = f' (process {os.environ["RANK"]})' if 'RANK' in os.environ else ''
        where = _keep_traceback()
        print(f'error{rank}: {message}\n({where})', file=sys.stderr)
        _tell_launcher(f'error: {message}\n({where})')
        sys.exit(2)
