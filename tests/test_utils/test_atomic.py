# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import os
import resource
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from mmmokd.utils import CannotWriteError, atomic_write
from mmmokd.utils.atomic import remove_parts


@contextmanager
def small_disk(limit=1000):
    """No file of this process may become longer, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))  # Python ignores SIGXFSZ
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write(path, content=b'new'):
    with atomic_write(path) as part:
        part.write_bytes(content)


def test_replaces_a_file(tmp_path):
    file = tmp_path / 'file'
    file.write_bytes(b'old')
    with atomic_write(file) as part:
        part.write_bytes(b'new')
        assert file.read_bytes() == b'old'
    assert file.read_bytes() == b'new' and os.listdir(tmp_path) == ['file']


@pytest.mark.parametrize('there', [True, False])
@pytest.mark.parametrize('error', [KeyboardInterrupt, RuntimeError, OSError, SystemExit])
def test_a_block_that_fails_leaves_what_was_there(tmp_path, there, error):
    file = tmp_path / 'file'
    if there:
        file.write_bytes(b'old')
    with pytest.raises(CannotWriteError if error is OSError else error):
        with atomic_write(file) as part:
            part.write_bytes(b'half')
            raise error
    assert os.listdir(tmp_path) == ['file'] * there
    assert not there or file.read_bytes() == b'old'  # check-words: off


def test_full_disk_is_one_sentence(tmp_path):
    file = tmp_path / 'file'
    write(file)
    with (
        small_disk(),
        pytest.raises(CannotWriteError, match=f'^cannot write {file}: File too large$'),
    ):
        write(file, b'x' * 2000)
    assert file.read_bytes() == b'new' and os.listdir(tmp_path) == ['file']


def test_folder_that_is_not_there(tmp_path):
    with pytest.raises(
        CannotWriteError, match='cannot write .*gone/file: No such file or directory'
    ):
        write(tmp_path / 'gone' / 'file')


def test_folder_of_that_name_stays(tmp_path):
    with pytest.raises(CannotWriteError, match='Is a directory'):
        write(tmp_path)
    assert os.listdir(tmp_path) == []


def test_new_folder_is_whole_or_not_there(tmp_path):
    def write_folder(number):
        with atomic_write(tmp_path / 'folder') as part:
            part.mkdir()
            for i in range(number):
                (part / f'{i}').touch()
            if not number:
                raise KeyError

    with pytest.raises(KeyError):
        write_folder(0)
    assert os.listdir(tmp_path) == []
    write_folder(3)
    with pytest.raises(CannotWriteError, match='Directory not empty'):
        write_folder(2)
    assert os.listdir(tmp_path) == ['folder'] and len(os.listdir(tmp_path / 'folder')) == 3


def test_link_stays_a_link(tmp_path):
    file, link = tmp_path / 'file', tmp_path / 'link'
    link.symlink_to(file)
    write(link)
    assert link.is_symlink() and file.read_bytes() == b'new'


def test_device_stays_a_device():
    write('/dev/null')
    assert not Path('/dev/null').is_file()


def test_parts_of_killed_processes_are_removed(tmp_path):
    ours = tmp_path / '.epoch_1.pth.0123abcd.part'
    for name in (ours.name, '.other.0123abcd.part', '.epoch_1.pth.part', 'epoch_1.pth'):
        (tmp_path / name).touch()
    assert remove_parts(tmp_path, lambda name: name == 'epoch_1.pth') == [ours]
    assert len(os.listdir(tmp_path)) == 3 and remove_parts(tmp_path / 'gone', bool) == []


def test_what_a_killed_process_leaves_is_such_a_part(tmp_path):
    if child := os.fork():
        os.waitpid(child, 0)
    else:
        with suppress(BaseException), atomic_write(tmp_path / 'file') as part:
            part.touch()
            os.kill(os.getpid(), 9)
    assert len(remove_parts(tmp_path, lambda name: name == 'file')) == 1
    assert os.listdir(tmp_path) == []
