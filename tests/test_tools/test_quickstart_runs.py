# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import json
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from quickstart_report import KNN, SIGNALS, collect
from quickstart_runs import (
    claim_run,
    drop_unusable_checkpoints,
    hash_files,
    lock,
    read_record,
    write_record,
)

from mmmokd.visualization import RunScalars

RECORD = {'images': 'abc', 'config': 'def', 'train_cfg.max_epochs': 2}


# ------------------------------------------------------------------------------ hashes and records
def test_hash_is_of_names_and_contents_alone(tmp_path):
    for place in ('here', 'there'):
        (tmp_path / place / 'sub').mkdir(parents=True)
        (tmp_path / place / 'sub' / 'a.png').write_bytes(b'1')
        (tmp_path / place / 'b.png').write_bytes(b'2')
    (tmp_path / 'there' / 'c.txt').write_bytes(b'3')
    first, there = hash_files(tmp_path / 'here', '*.png'), tmp_path / 'there'
    assert first == hash_files(there, '*.png') != hash_files(there, '*')
    (there / 'b.png').write_bytes(b'1')
    changed = hash_files(there, '*.png')
    (there / 'b.png').rename(there / 'd.png')
    assert len({first, changed, hash_files(there, '*.png')}) == 3


def test_record(tmp_path):
    assert read_record(tmp_path / 'run') is None
    for record in (RECORD, {}):
        write_record(tmp_path / 'run', record)
        assert read_record(tmp_path / 'run') == record
    assert len(list((tmp_path / 'run').iterdir())) == 1


# ------------------------------------------------------------------------------ runs
def test_only_the_very_same_run_is_gone_on_with(tmp_path, capsys):
    run, checkpoint = tmp_path / 'cnn', tmp_path / 'cnn' / 'epoch_1.pth'
    claim_run(run, RECORD)
    for text in ('first', 'second'):
        checkpoint.write_text(text)
        claim_run(run, dict(RECORD))
        assert checkpoint.read_text() == text
    assert capsys.readouterr().out == ''

    claim_run(run, {**RECORD, 'train_cfg.max_epochs': 3})
    out = capsys.readouterr().out
    assert 'another run (train_cfg.max_epochs differs): kept as cnn.old1' in out
    assert out.count('\n') == 1 and not checkpoint.exists()
    assert (tmp_path / 'cnn.old1' / 'epoch_1.pth').read_text() == 'second'

    claim_run(run, {'images': 'abd', 'config': 'def'})
    assert 'images, train_cfg.max_epochs differ): kept as cnn.old2' in capsys.readouterr().out
    (tmp_path / 'vit').mkdir()
    claim_run(tmp_path / 'vit', RECORD)  # an empty folder is nobody's
    assert capsys.readouterr().out == ''
    (tmp_path / 'vit' / 'quickstart.json').unlink()
    checkpoint = tmp_path / 'vit' / 'epoch_1.pth'
    checkpoint.write_text('of a run that left no record')
    claim_run(tmp_path / 'vit', RECORD)
    assert 'other files: kept as vit.old1' in capsys.readouterr().out and not checkpoint.exists()


def cut_off_run(folder, validated):
    """What four epochs leave, two of them checkpoints; 'epoch_4.pth' may lack its validation."""
    scalars = folder / '20260101_000000' / 'vis_data' / 'scalars.json'
    scalars.parent.mkdir(parents=True)
    lines = [dict(step=epoch, **{'cnn.teacher/knn_top1': 50.0}) for epoch in validated]
    scalars.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    for epoch in (3, 4):
        torch.save({}, folder / f'epoch_{epoch}.pth')


@pytest.mark.parametrize(
    'validated, max_epochs, interval, validate, left',
    [
        ([0, 1, 2, 3, 4], 4, 1, True, [3, 4]),
        ([0, 1, 2, 3], 4, 1, True, [3]),  # the last accuracy would be the third epoch's
        ([0, 3], 4, 3, True, [3]),
        ([0, 3], 5, 3, True, [3, 4]),  # the fourth epoch was not to be validated
        ([], 4, 1, False, [3, 4]),
    ],
)
def test_a_run_cut_off_before_its_validation(
    tmp_path, validated, max_epochs, interval, validate, left
):
    cut_off_run(tmp_path, validated)
    cfg = Config(dict(train_cfg=dict(max_epochs=max_epochs, val_interval=interval)))
    drop_unusable_checkpoints(tmp_path, cfg, validate)
    assert sorted(tmp_path.glob('*.pth')) == [tmp_path / f'epoch_{epoch}.pth' for epoch in left]


def test_a_run_cut_off_in_a_checkpoint(tmp_path, capsys):
    cfg = Config(dict(train_cfg=dict(max_epochs=2, val_interval=1)))
    drop_unusable_checkpoints(tmp_path / 'none', cfg, True)
    (tmp_path / 'epoch_1.pth').write_bytes(b'half')
    drop_unusable_checkpoints(tmp_path, cfg, False)
    assert not list(tmp_path.iterdir()) and 'epoch_1.pth was cut off' in capsys.readouterr().out


# ------------------------------------------------------------------------------ one at a time
def test_lock_is_held_by_what_was_begun_too(tmp_path):
    out = tmp_path / 'new' / 'out'
    with lock(out) as file:
        child = subprocess.Popen(
            [sys.executable, '-c', 'input()'], stdin=subprocess.PIPE, pass_fds=[file.fileno()]
        )
        with pytest.raises(ValueError, match=f'writes to {out}'), lock(out):
            pass
    with child, pytest.raises(ValueError, match='another quick start, or a training'), lock(out):
        pass
    with lock(out):
        pass


# ------------------------------------------------------------------------------ the report
@pytest.mark.parametrize('first, last, message', [(0, 5, None), (1, 5, '1 to 5'), (0, 4, '0 to 4')])
def test_accuracies_are_of_the_whole_run(first, last, message):
    points = [(epoch, 50.0 + epoch) for epoch in range(first, last + 1)]
    scalars = {
        run: RunScalars({}, {f'{branch}.teacher/knn_top1': points for branch in ('cnn', 'vit')})
        for run in ('CNN alone', 'ViT alone', 'together')
    }
    if message is None:
        assert set(map(tuple, collect(scalars, KNN, 5).values())) == {tuple(points)}
    else:
        with pytest.raises(ValueError, match=f'"CNN alone" logged .* from epoch {message} only'):
            collect(scalars, KNN, 5)


def test_signals_reach_the_last_epoch():
    measure = next(iter(SIGNALS))
    points = [(0.5, 3.0), (1.0, 4.0), (1.4, 5.0)]
    names = {f'{branch}.{SIGNALS[measure]}': points for branch in ('cnn', 'vit')}
    scalars = {run: RunScalars(names, {}) for run in ('CNN alone', 'ViT alone', 'together')}
    assert collect(scalars, measure, 2)['ViT together'] == points
    with pytest.raises(ValueError, match='from epoch 0.5 to 1.4 only, not over its 3'):
        collect(scalars, measure, 3)
