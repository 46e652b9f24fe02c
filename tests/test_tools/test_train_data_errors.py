# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""What a user reads whose folder cannot be trained on: one message, before any training."""

import runpy
from pathlib import Path

import pytest
from mokd_testing import short_log
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / 'configs/mokd/mokd_resnet18_vit-tiny-p16_1xb32-coslr-100e_folder.py'


def make(folder, kind):
    if kind == 'gone':
        return
    folder.mkdir()
    if kind == 'no picture':
        (folder / 'notes.txt').write_text('text')
    elif kind == 'too few':
        for index in range(3):
            Image.new('RGB', (40, 30), (80 * index, 9, 9)).save(folder / f'{index}.png')


@pytest.mark.parametrize(
    ('kind', 'message'),
    [
        ('gone', 'The folder of pictures, {folder}, is not there.'),
        ('empty', 'No picture in the folder {folder}: it is empty'),
        ('no picture', 'No picture in the folder {folder}: it holds 1 files (1 x .txt)'),
        ('too few', 'The training set has 3 pictures, fewer than one step takes: 32'),
    ],
)
def test_one_message_before_training(tmp_path, monkeypatch, capsys, kind, message):
    folder, work_dir = tmp_path / 'pictures', tmp_path / 'work_dir'
    make(folder, kind)
    small = [f'model.branches.{branch}.projector.hid_channels=8' for branch in ('cnn', 'vit')]
    options = [f'train_dataloader.dataset.data_root={folder}', *small]
    arguments = [CONFIG, '--work-dir', work_dir, '--cfg-options', *options]
    monkeypatch.setattr('sys.argv', ['train.py', *map(str, arguments)])
    monkeypatch.setattr('mmmokd.apis.runtime.get_device', lambda: 'cpu')
    monkeypatch.delenv('MMMOKD_TRACEBACK', raising=False)
    for name in ('LOCAL_RANK', 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'):
        monkeypatch.setenv(name, '0')  # to be put back: the tool sets them
    with pytest.raises(SystemExit) as exit_info, short_log():
        runpy.run_path(str(ROOT / 'tools' / 'train.py'), run_name='__main__')
    assert exit_info.value.code == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
    assert len(error) == 1
    assert error[0].startswith(f'error: {message.format(folder=folder)}')
    assert not list(work_dir.rglob('*.pth'))
