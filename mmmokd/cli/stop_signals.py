# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""End a command that is stopped from outside. Light to import, see ``run_tool.py``."""

import os
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from mmmokd.utils.environment import is_first_process

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# What a script that runs the tools was called as: one whose call is to get --resume, and one that
# continues by itself where it was.
COMMAND, RERUN = 'MMMOKD_COMMAND', 'MMMOKD_RERUN'
RESUME = re.compile(r'--r(e(s(u(me?)?)?)?)?(=.*)?')  # as argparse takes it, shortened or not
OVERWRITE = re.compile(r'--o(v(e(r(w(r(i(te?)?)?)?)?)?)?)?')
LAUNCHER = re.compile(r'--launcher[ =](pytorch|slurm|mpi)')
GRACE = 5.0  # seconds that one of several processes has to end by itself

_where: list[Callable[[], str]] = []  # say how far what runs has come
_received: list['Interrupted'] = []  # what ended what ran
_told: list[bool] = []  # whether its user knows


def _forget_parent() -> None:
    """A process that is forked from this one has no news for it."""
    if threading.current_thread() is threading.main_thread():
        signal.set_wakeup_fd(-1)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or a signal that asks the process to end.

    Args:
        number (int): Of the signal. Defaults to that of Ctrl-C.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        by = '' if number == signal.SIGINT else f' by {signal.Signals(number).name}'
        super().__init__(f'interrupted{by}{_where[-1]() if _where else ""}')
        self.number = number


@contextmanager
def where(describe: Callable[[], str]) -> Iterator[None]:
    """Say, if the block is interrupted, how far it has come and how to continue.

    Args:
        describe (Callable): Returns the rest of the sentence that begins with "interrupted".
    """
    _where.append(describe)
    try:
        yield
    finally:
        _where.remove(describe)


def _launcher() -> str:
    found = LAUNCHER.search(' '.join(sys.argv))
    return found[1] if found else 'none'


def raise_again() -> None:
    """Raise the interruption once more, if there was one.

    Where Python cannot raise, as in a ``__del__`` that happens to run, it drops what a handler of
    signals raises. So does code that catches everything.

    Raises:
        Interrupted: If a signal came.
    """
    if _received:
        raise _received[0]


@contextmanager
def interruptible() -> Iterator[None]:
    """Let the signals that ask a process to end raise :class:`Interrupted`, once.

    A second signal ends the process at once; under torchrun, which may send on what the process has
    from the terminal already, it does nothing. Of several processes the first tells of it; the
    others have nothing to say, and end at once, whatever they wait for.

    Raises:
        Interrupted: At a signal, also where the block made another error of it: PyTorch's writer of
            files raises a KeyboardInterrupt of its own, and a connection to a process that was
            also interrupted may break before this one is.
    """
    # What whoever started this process had it ignore, as nohup does, stays ignored.
    before = {number: signal.getsignal(number) for number in SIGNALS}
    before = {
        number: was or signal.SIG_DFL  # None: a handler that is not Python's
        for number, was in before.items()
        if was is not signal.SIG_IGN
    }
    if threading.current_thread() is not threading.main_thread() or not before:
        yield
        return
    stop = _stop_once(os.getpid()) if is_first_process(_launcher()) else signal.SIG_DFL
    _told.clear()
    for number in before:
        signal.signal(number, stop)
    try:
        with _ending_if_stuck():
            yield
    except (KeyboardInterrupt, Exception) as error:
        if isinstance(error, Interrupted) or not _received:
            raise
        raise _received[0] from error
    finally:
        _received.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop_once(process: int) -> Callable[[int, FrameType | None], None]:
    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # one that was forked from this one
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        again = signal.SIG_IGN if 'TORCHELASTIC_RUN_ID' in os.environ else signal.SIG_DFL
        for each in SIGNALS:
            signal.signal(each, again)
        _received.append(Interrupted(number))
        raise _received[0]

    return stop


@contextmanager
def _ending_if_stuck() -> Iterator[None]:
    """Also end the first of several processes if it waits for one of them that ended.

    A handler of Python's runs between two of its instructions, and the call of a GPU that waits for
    others does not come to an end.
    """
    if _launcher() == 'none' or not is_first_process(_launcher()):
        yield
        return
    receiver, sender = os.pipe()
    os.set_blocking(sender, False)

    def end_if_stuck() -> None:
        while number := os.read(receiver, 1):  # until the block is over
            if number[0] in SIGNALS:  # and not one that tells of a data worker
                time.sleep(GRACE)
                error = _received[0] if _received else Interrupted(number[0])
                if not _told:
                    print(f'\n{error}', file=sys.stderr, flush=True)
                os._exit(128 + error.number)

    threading.Thread(target=end_if_stuck, daemon=True).start()
    os.register_at_fork(after_in_child=_forget_parent)
    before = signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(sender)


def this_command(resume: bool) -> str:
    """The command that this process runs, to be typed again.

    Args:
        resume (bool): Whether it is to continue from the newest checkpoint.

    Returns:
        str: The command; of a script that runs the tools, the script's.
    """
    if RERUN in os.environ:
        words = shlex.split(os.environ[RERUN])
        return shlex.join(word for word in words if not OVERWRITE.fullmatch(word))
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
    print(f'\n{error}', file=sys.stderr, flush=True)
    _told.append(True)
    tell(str(error))
    code = 128 + error.number
    if _launcher() != 'none':  # processes that wait for one another would not end by themselves
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)
