# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""How a command ends that is stopped from outside. Light to import, see ``cli.py``."""

import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# What a script that runs the tools was called as: one whose call is to get --resume, and one that
# goes on by itself where it was.
COMMAND, RERUN = 'MMMOKD_COMMAND', 'MMMOKD_RERUN'
RESUME = re.compile(r'--r(e(s(u(me?)?)?)?)?(=.*)?')  # as argparse takes it, shortened or not
OVERWRITE = re.compile(r'--o(v(e(r(w(r(i(te?)?)?)?)?)?)?)?')

_received: list[int] = []  # signals that ended what ran


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or a signal that asks the process to end.

    Args:
        number (int): Of the signal. Defaults to that of Ctrl-C.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__()
        self.number = number
        self.where = ''

    def __str__(self) -> str:
        by = '' if self.number == signal.SIGINT else f' by {signal.Signals(self.number).name}'
        return f'interrupted{by}{self.where}'


@contextmanager
def interruptible() -> Iterator[None]:
    """Let the signals that ask a process to end raise :class:`Interrupted`, once.

    A second Ctrl-C ends the process at once; under torchrun, which sends the signal on to who has it
    from the terminal already, it does nothing.

    Raises:
        Interrupted: At a signal, also where the block made another error of it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a process that was forked from this one
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        again = signal.SIG_IGN if 'TORCHELASTIC_RUN_ID' in os.environ else signal.SIG_DFL
        signal.signal(signal.SIGINT, again)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _received.append(number)
        raise Interrupted(number)

    # One that whoever started this process had it ignore, as nohup does, stays ignored.
    before = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: was for number, was in before.items() if was is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, stop)
    try:
        with as_interrupted():
            yield
    finally:
        _received.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def as_interrupted() -> Iterator[None]:
    """Make an :class:`Interrupted` of whatever a library made of one.

    PyTorch's writer of files raises another KeyboardInterrupt in its place; a connection to a process
    that was interrupted, too, may break before this one is.

    Raises:
        Interrupted: If the block raised anything after a signal came.
    """
    try:
        yield
    except (KeyboardInterrupt, Exception) as error:
        if isinstance(error, Interrupted) or not _received:
            raise
        raise Interrupted(_received[0]) from error


def this_command(resume: bool) -> str:
    """The command that this process runs, to be typed again.

    Args:
        resume (bool): Whether it is to go on from the newest checkpoint.

    Returns:
        str: The command; of a script that runs the tools, the script's.
    """
    if RERUN in os.environ:
        return os.environ[RERUN]
    words = shlex.split(os.environ[COMMAND]) if COMMAND in os.environ else sys.orig_argv
    kept, skip = [], False
    for word in words:
        is_value = skip and not word.startswith('-')
        skip = bool(RESUME.fullmatch(word)) and '=' not in word
        if not (is_value or RESUME.fullmatch(word) or OVERWRITE.fullmatch(word)):
            kept.append(word)
    return shlex.join([*kept, *(['--resume'] if resume else [])])


def end_interrupted(error: KeyboardInterrupt, tell: Callable[[str], None]) -> NoReturn:
    """End this process as the signal would have: with its message, without a traceback.

    Args:
        error (KeyboardInterrupt): As caught.
        tell (Callable): Also told the message.
    """
    if not isinstance(error, Interrupted):
        error = Interrupted()
    if os.environ.get('RANK', '0') == '0':
        print(f'\n{error}', file=sys.stderr, flush=True)
    tell(str(error))
    code = 128 + error.number
    if 'RANK' in os.environ:  # processes that wait for one another would not end by themselves
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


@contextmanager
def repeatable() -> Iterator[None]:
    """Say of a command that goes on by itself where it was how to do so.

    Raises:
        Interrupted: As it came, with the message.
    """
    try:
        with as_interrupted():
            yield
    except Interrupted as error:
        error.where = f'; go on with: {this_command(resume=False)}'
        raise
