# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from filelock import FileLock
from mmengine.config import Config

from mmmokd.engine.runners.run_folder import check_folder, claim_run_folder

USERS = ('mine.py', 'mine.pth', 'best_of_all.pth', 'notes/20261126_101010/a.txt', 'metrics.json')
RUNS = (
    'epoch_1.pth',
    'epoch_2.pth',
    'iter_10.pth',
    'epoch_2-0123abcd.pth',
    'best_cnn.teacher_knn_top1_epoch_2.pth',
    'last_checkpoint',
    'old.py',
    '20261126_101010/20261126_101010.log',
    '20261126_101010/vis_data/config.py',
    '20261126_101010/vis_data/scalars.json',
)


def write(folder, *names, content='x'):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def files(folder):
    return {
        str(path.relative_to(folder))
        for path in folder.rglob('*')
        if path.is_file() and path.name != '.run.lock'
    }


@pytest.fixture
def folder(tmp_path):
    return tmp_path / 'run'


@pytest.fixture
def make(folder):
    def make(filename=None, **settings):
        cfg = dict(dict(work_dir=str(folder), launcher='none'), **settings)
        return Config(cfg, filename=filename)

    return make


def claim(cfg, overwrite=False):
    with claim_run_folder(cfg, overwrite):
        pass


def test_makes_the_folder_and_tells_who_is_in_it(make, folder):
    with claim_run_folder(make()):
        said = f'another run writes to {folder} .process {os.getpid()} on .*, since 20.*--work-dir'
        with pytest.raises(ValueError, match=said):
            claim(make())
        assert files(folder) == {'.run.json'}
    claim(make())
    assert files(folder) == set()


@pytest.fixture(autouse=True)
def no_wait(monkeypatch):
    monkeypatch.setattr('mmmokd.engine.runners.run_folder.LOCK_TIMEOUT', 0.0)


def hold(cfg, pipe):
    with claim_run_folder(cfg):
        pipe.send('held')
        pipe.recv()


@pytest.mark.parametrize('written', [(), ('20261126_101010/20261126_101010.log',)])
def test_run_that_wrote_nothing_leaves_no_folder(tmp_path, written):
    new = tmp_path / 'new'
    with pytest.raises(RuntimeError), claim_run_folder(Config(dict(work_dir=str(new)))):
        write(new, *written)
        raise RuntimeError
    assert new.exists() == bool(written)


def test_lock_ends_with_a_killed_process(make, folder):
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context('fork').Process(target=hold, args=(make(), theirs))
    process.start()
    assert ours.recv() == 'held'
    with pytest.raises(ValueError, match=f'process {process.pid} on'):
        claim(make())
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    claim(make())


@pytest.mark.parametrize('error', [OSError(37, 'No locks available'), NotImplementedError('none')])
def test_file_system_without_locks_is_a_warning(make, monkeypatch, capsys, error):
    def acquire(lock):
        raise error

    monkeypatch.setattr(FileLock, 'acquire', acquire)
    claim(make())
    assert 'cannot be locked' in ''.join(capsys.readouterr())


@pytest.mark.parametrize('name', ['epoch_1.pth', 'iter_7.pth', 'best_top1_epoch_3.pth'])
def test_run_with_checkpoints_is_not_written_over(make, folder, name):
    write(folder, name)
    said = (
        f'holds checkpoints of an earlier run .{name}.: .*--resume.*--work-dir OTHER.*--overwrite'
    )
    with pytest.raises(ValueError, match=said):
        claim(make())
    assert files(folder) == {name}


@pytest.mark.parametrize('names', [(), ('20261126_101010/20261126_101010.log', 'old.py'), USERS])
def test_folder_without_checkpoints_is_free(make, folder, names):
    write(folder, *names)
    claim(make())
    assert files(folder) == set(names)


def test_overwrite_removes_what_a_run_wrote_and_nothing_else(make, folder):
    write(folder, *RUNS)
    write(folder, *USERS, content='my own')
    claim(make(), overwrite=True)
    assert files(folder) == set(USERS)


def test_overwrite_spares_the_config_that_runs(make, folder):
    write(folder, *RUNS)
    claim(make(filename=str(folder / 'old.py')), overwrite=True)
    assert files(folder) == {'old.py'}


@pytest.mark.parametrize('place', ['load_from', 'init_cfg'])
def test_overwrite_spares_what_the_run_starts_from(make, folder, place):
    write(folder, 'epoch_1.pth')
    start = str(folder / 'epoch_1.pth')
    settings = dict(load_from=start)
    if place == 'init_cfg':
        settings = dict(model=dict(backbone=dict(init_cfg=[dict(checkpoint=start)])))
    with pytest.raises(
        ValueError, match='--overwrite would remove .*epoch_1.pth, which the config'
    ):
        claim(make(**settings), overwrite=True)
    assert files(folder) == {'epoch_1.pth'}


def test_resumed_run_names_where_it_goes_on(make, folder):
    write(folder, 'epoch_1.pth', 'epoch_2.pth')
    write(folder, 'last_checkpoint', content=str(folder / 'epoch_2.pth'))
    claim(make(resume=True, load_from=str(folder / 'epoch_1.pth')))
    assert (folder / 'last_checkpoint').read_text() == str(folder / 'epoch_1.pth')


def test_run_resumed_from_elsewhere_is_not_mixed_with_what_is_there(make, folder, tmp_path):
    write(tmp_path, 'other/epoch_1.pth')
    cfg = make(resume=True, load_from=str(tmp_path / 'other' / 'epoch_1.pth'))
    claim(cfg)
    assert files(folder) == set()
    write(folder, 'epoch_2.pth')
    with pytest.raises(ValueError, match='holds checkpoints of an earlier run'):
        claim(cfg)
    claim(cfg, overwrite=True)
    assert files(folder) == set()


@pytest.mark.parametrize('name', ['epoch_1.pth', 'e1.pth', 'best_top1_e1.pth'])
def test_checkpoints_in_a_folder_and_by_names_of_their_own(make, tmp_path, name):
    hook = dict(type='CheckpointHook', out_dir=str(tmp_path / 'out'), filename_tmpl='e{}.pth')
    write(tmp_path / 'out' / 'run', name, '.epoch_1.pth.0123abcd.part')
    cfg = make(default_hooks=dict(checkpoint=hook))
    with pytest.raises(ValueError, match=f'out/run holds checkpoints .*{name}'):
        claim(cfg)
    assert files(tmp_path / 'out') == {f'run/{name}'}
    claim(cfg, overwrite=True)
    assert files(tmp_path / 'out') == set()


def test_what_killed_runs_left_half_written_is_removed(make, folder):
    parts = ('.epoch_1.pth.0123abcd.part', '.last_checkpoint.0123abcd.part', '.my.0123abcd.part')
    write(folder, *parts)
    claim(make())
    assert files(folder) == {parts[2]}


@pytest.mark.parametrize(('launcher', 'variable'), [('pytorch', 'RANK'), ('slurm', 'SLURM_PROCID')])
def test_the_first_process_claims_for_all(make, folder, monkeypatch, launcher, variable):
    write(folder, 'epoch_1.pth')
    cfg = make(launcher=launcher)
    monkeypatch.setenv(variable, '1')
    claim(cfg)
    monkeypatch.setenv(variable, '0')
    with pytest.raises(ValueError, match='holds checkpoints'):
        claim(cfg)


@pytest.mark.parametrize(
    ('path', 'said'),
    [
        ('file', 'cannot write to .*file: it is a file, not a folder'),
        ('file/below', 'cannot write to the folder .*below: Not a directory'),
        ('/proc/self/run', 'cannot write to the folder /proc/self/run: '),
    ],
)
def test_folder_that_cannot_be_written_to(tmp_path, path, said):
    write(tmp_path, 'file')
    with pytest.raises(ValueError, match=said):
        check_folder(Path(tmp_path, path))
