# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import argparse
import json
import re
from pathlib import Path

import pytest
from quickstart_runs import RECORD, REPORT, default_out, is_validated, open_record


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


# ------------------------------------------------------------------------------ a training
def test_a_run_cut_off_before_its_last_validation(tmp_path):
    scalars = tmp_path / '20260101_000000' / 'vis_data' / 'scalars.json'
    scalars.parent.mkdir(parents=True)
    lines = [dict(step=epoch, **{'cnn.teacher/knn_top1': 50.0}) for epoch in range(4)]
    scalars.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    assert is_validated(tmp_path, 3) and not is_validated(tmp_path, 4)
