# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import argparse
import json
import re
from pathlib import Path
from typing import NamedTuple

import pytest
import quickstart_runs
from mmengine.config import Config
from quickstart_runs import (
    PROBE,
    RECORD,
    REPORT,
    TRAIN_AND_EVALUATE,
    default_out,
    is_reported,
    is_validated,
    open_record,
    train,
)


def arguments(images=None, seed=None, epochs=None, resume=False, overwrite=False):
    images = images and Path(images)
    return argparse.Namespace(
        images=images, seed=seed, epochs=epochs, resume=resume, overwrite=overwrite
    )


# ------------------------------------------------------------------------------ the folder
@pytest.fixture
def begun(tmp_path):
    """A quick start of 40 images, seed 0 and 2 epochs that has a checkpoint."""
    asked = open_record(tmp_path, arguments('/my/images', epochs=2), 40)
    assert asked == dict(images='/my/images', count=40, seed=0, epochs=2)
    (tmp_path / 'cnn').mkdir()
    (tmp_path / 'cnn' / 'epoch_1.pth').touch()
    (tmp_path / REPORT[0]).touch()
    return tmp_path, asked


def test_the_same_call_resumes(begun):
    out, asked = begun
    assert open_record(out, arguments('/my/images', seed=0, epochs=2), 40) == asked
    assert open_record(out, arguments(resume=True), None) == asked
    assert open_record(out, arguments(resume=True, epochs=2), None) == asked
    assert (out / 'cnn' / 'epoch_1.pth').exists() and (out / REPORT[0]).exists()


@pytest.mark.parametrize(
    ('given', 'count', 'message'),
    [
        (dict(images='/my/images', epochs=3), 40, r'\(epochs 2, not 3\)'),
        (dict(images='/my/images'), 40, r'\(epochs 2, not None\)'),
        (dict(images='/my/images', epochs=2), 41, r'\(count 40, not 41\)'),
        (
            dict(epochs=2, seed=1),
            None,
            r'\(images /my/images, not None; count 40, .* seed 0, not 1',
        ),
        (dict(resume=True, seed=1), None, r'\(seed 0, not 1\)'),
    ],
)
def test_another_call_leaves_the_folder_alone(begun, given, count, message):
    out, asked = begun
    with pytest.raises(ValueError, match=f'{message}.*--resume.*--overwrite.*--out'):
        open_record(out, arguments(**given), count)
    assert (out / 'cnn' / 'epoch_1.pth').exists()
    assert json.loads((out / RECORD).read_text()) == asked


def test_overwrite_removes_what_a_quick_start_wrote(begun):
    out, _ = begun
    (out / 'mine.txt').touch()
    asked = open_record(out, arguments(seed=1, overwrite=True), None)
    assert asked == dict(images=None, count=None, seed=1, epochs=None)
    assert {path.name for path in out.iterdir()} == {RECORD, 'mine.txt'}


@pytest.mark.parametrize('given', [{}, dict(overwrite=True), dict(resume=True)])
def test_a_folder_of_other_files_is_left_alone(tmp_path, given):
    (tmp_path / 'cnn').mkdir()
    with pytest.raises(ValueError, match=f'{tmp_path} holds no quick start: name another folder'):
        open_record(tmp_path, arguments(**given), None)
    assert [path.name for path in tmp_path.iterdir()] == ['cnn']


def test_default_folders_need_no_quotes():
    names = [default_out(images and Path(images), 1).name for images in ('/a/my, own', '/', None)]
    assert names == ['my-own_seed1', 'images_seed1', 'fashion_mnist_seed1']
    assert all(re.fullmatch(r'[\w.-]+', name) for name in names)


# ------------------------------------------------------------------------------ the report
def test_a_report_of_an_earlier_version_is_not_complete(tmp_path):
    for name in REPORT:
        assert not is_reported(tmp_path)
        (tmp_path / name).write_text('{"raw_pixels": 81.25}')
    assert not is_reported(tmp_path)
    (tmp_path / REPORT[1]).write_text('{"raw_pixels": 81.25, "epoch_seconds": {}}')
    assert is_reported(tmp_path)


# ------------------------------------------------------------------------------ a training
def write_log(work_dir, epochs):
    scalars = work_dir / '20260101_000000' / 'vis_data' / 'scalars.json'
    scalars.parent.mkdir(parents=True)
    lines = [dict(step=epoch, **{'cnn.teacher/knn_top1': 50.0}) for epoch in range(epochs + 1)]
    scalars.write_text(''.join(json.dumps(line) + '\n' for line in lines))


def test_a_run_cut_off_before_its_last_validation(tmp_path):
    write_log(tmp_path, 3)
    assert is_validated(tmp_path, 3) and not is_validated(tmp_path, 4)


class OneBranch(NamedTuple):
    labeled: bool

    def load(self, names):
        assert names == 'cnn'
        text = 'train_cfg = dict(max_epochs=2)'
        return Config.fromstring(text, '.py')


@pytest.mark.parametrize(
    ('labeled', 'trained', 'validated', 'probed', 'output'),
    [
        (True, False, False, False, 'output.txt'),
        (True, False, True, True, 'output.txt'),  # its last checkpoint was lost
        (True, True, False, True, 'output.txt'),
        (True, True, True, False, 'evaluation.txt'),
        (True, True, True, True, None),
        (False, False, False, False, 'output.txt'),
        (False, True, False, False, None),
    ],
)
def test_only_what_is_left_is_run(
    tmp_path, monkeypatch, capsys, labeled, trained, validated, probed, output
):
    work_dir, calls = tmp_path / 'cnn', []
    last = work_dir / 'epoch_2.pth'
    (work_dir / PROBE).parent.mkdir(parents=True)
    write_log(work_dir, 2 if validated else 1)
    for file in [last] * trained + [work_dir / PROBE] * probed:
        file.touch()
    monkeypatch.setattr(quickstart_runs, 'run_script', lambda *args, show: calls.append(args))
    train(work_dir, OneBranch(labeled))
    assert [file.name for _, file in calls] == ([output] if output else [])
    assert ('finished by an earlier call' in capsys.readouterr().out) == (output is None)
    if output is None:
        return
    command = calls[0][0]
    assert Config.fromfile(command[1]).train_cfg.max_epochs == 2
    assert last.exists() == (output == 'evaluation.txt')
    assert not (work_dir / PROBE).exists(), 'of another checkpoint'
    if labeled:
        assert [command[0], command[2]] == [TRAIN_AND_EVALUATE, last]
    else:
        assert command[0].name == 'train.py' and '--no-validate' in command
