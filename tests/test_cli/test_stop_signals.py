# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import time

import pytest

from mmmokd.cli import stop_signals
from mmmokd.cli.interrupt import PositionHook, how_to_resume
from mmmokd.cli.run_tool import run_tool
from mmmokd.cli.stop_signals import this_command, where
from mmmokd.weights import save_file


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """A command changes these for its process, which may itself have been told to ignore Ctrl-C."""
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')
    monkeypatch.setattr(logging, 'raiseExceptions', True)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def send(number):
    os.kill(os.getpid(), number)


def turn_into_another(number, error):
    try:
        send(number)
    except BaseException:
        raise error from None


@pytest.mark.parametrize(
    ('number', 'status', 'said'),
    [
        (signal.SIGINT, 130, 'interrupted after lunch'),
        (signal.SIGTERM, 143, 'interrupted by SIGTERM after lunch'),
    ],
)
@pytest.mark.parametrize('error', [None, RuntimeError('broken pipe'), KeyboardInterrupt()])
def test_one_message_and_the_status_of_the_signal(capsys, number, status, said, error):
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]

    def main():
        with where(lambda: ' after lunch'):
            turn_into_another(number, error) if error else send(number)

    with pytest.raises(SystemExit) as ended:
        run_tool(main)
    assert ended.value.code == status
    assert capsys.readouterr().err == f'\n{said}\n'
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_interruption_that_is_lost_is_raised_again():
    class Careless:
        def __del__(self):
            send(signal.SIGINT)

    def main():
        Careless()  # Python cannot raise here
        came_here.append(True)
        PositionHook().before_train_iter(None)
        came_here.append(False)

    came_here = []
    with pytest.raises(SystemExit, match='130'):
        run_tool(main)
    assert came_here == [True]


def test_what_was_ignored_stays_ignored():
    came_here = []

    def main():
        send(signal.SIGINT)
        came_here.append(signal.getsignal(signal.SIGINT))

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # put back by the fixture
    run_tool(main)
    assert came_here == [signal.SIG_IGN]


def test_a_forked_process_ends_by_itself():
    statuses = []

    def main():
        child = os.fork()
        if not child:
            send(signal.SIGTERM)
            os._exit(1)
        statuses.append(os.waitpid(child, 0)[1])

    run_tool(main)
    assert [os.waitstatus_to_exitcode(status) for status in statuses] == [-signal.SIGTERM]


def wait_for_others(sender):
    """The first of several processes: a data worker of it ends, then it waits in a library's call."""
    sys.stderr = os.fdopen(sender, 'w')
    sys.argv.append('--launcher=pytorch')
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    mutex = ctypes.create_string_buffer(64)

    def main():
        with where(lambda: ' as it waits'):
            if not os.fork():
                os._exit(0)
            time.sleep(3 * stop_signals.GRACE)
            print('waits', end='', file=sys.stderr, flush=True)
            for _ in range(2):
                ctypes.CDLL(None).pthread_mutex_lock(mutex)  # the second time for ever

    run_tool(main)


def test_first_of_several_processes_does_not_hang(monkeypatch):
    monkeypatch.setattr(stop_signals, 'GRACE', 0.1)
    monkeypatch.setenv('RANK', '0')
    receiver, sender = os.pipe()
    process = multiprocessing.get_context('fork').Process(target=wait_for_others, args=(sender,))
    process.start()
    os.close(sender)
    assert os.read(receiver, 100) == b'waits'
    time.sleep(0.2)
    process.terminate()
    process.join(20)
    assert process.exitcode == 143
    assert os.read(receiver, 100) == b'\ninterrupted by SIGTERM as it waits\n'


def test_the_others_end_at_once(monkeypatch):
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setattr(sys, 'argv', ['train.py', '--launcher', 'pytorch'])
    with stop_signals.interruptible():
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_launcher_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv('TORCHELASTIC_ERROR_FILE', str(tmp_path / 'error.json'))
    with pytest.raises(SystemExit):
        run_tool(lambda: send(signal.SIGTERM))
    assert 'interrupted by SIGTERM' in (tmp_path / 'error.json').read_text()


TRAIN = ['python', 'tools/train.py', 'a b.py']


@pytest.mark.parametrize(
    ('words', 'again'),
    [
        ([], ' --resume'),
        (['--resume', '--amp'], ' --amp --resume'),
        (['--resume=a.pth', '--overwrite'], ' --resume'),
        (['--res', 'a.pth', '--over', '--cfg-options', 'x=1'], ' --cfg-options x=1 --resume'),
        (['--cfg-options', "y='[1, 2]'"], """ --cfg-options 'y='"'"'[1, 2]'"'"'' --resume"""),
    ],
)
def test_command_to_resume(monkeypatch, words, again):
    monkeypatch.setattr(sys, 'orig_argv', TRAIN + words)
    assert this_command(resume=True) == "python tools/train.py 'a b.py'" + again
    assert this_command(resume=False) + ' --resume' == this_command(resume=True)


def test_command_of_a_script(monkeypatch):
    monkeypatch.setenv('MMMOKD_COMMAND', r'bash tools/dist_train.sh a\ b.py 2 --resume ')
    assert this_command(resume=True) == "bash tools/dist_train.sh 'a b.py' 2 --resume"
    monkeypatch.setenv('MMMOKD_RERUN', 'bash tools/transfer.sh a.pth cnn b.py --overwrite ')
    assert this_command(resume=True) == 'bash tools/transfer.sh a.pth cnn b.py'


def test_how_to_resume(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, 'orig_argv', ['train.py'])
    said = how_to_resume(str(tmp_path))
    assert said == ', before the first checkpoint; start again with: train.py'
    (tmp_path / 'epoch_1.pth').write_bytes(b'cut')
    assert how_to_resume(str(tmp_path)) == said
    save_file({}, tmp_path / 'epoch_2.pth')
    assert how_to_resume(str(tmp_path)) == (
        f', newest checkpoint {tmp_path / "epoch_2.pth"}; resume with: train.py --resume'
    )
