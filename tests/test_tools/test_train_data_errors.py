# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Messages for images that cannot be trained on: one, before it is too late."""

import runpy
from pathlib import Path

import pytest
from mokd_testing import short_log
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / 'configs/mokd/mokd_resnet18_vit-tiny-p16_1xb32-coslr-100e_folder.py'
NARROW = [f'model.branches.{branch}.projector.hid_channels=8' for branch in ('cnn', 'vit')]


def make(folder, kind):
    if kind == 'gone':
        return
    folder.mkdir()
    if kind == 'no image':
        (folder / 'notes.txt').write_text('text')
    elif kind == 'too few':
        for index in range(3):
            Image.new('RGB', (40, 30), (80 * index, 9, 9)).save(folder / f'{index}.png')


@pytest.fixture
def train_error(monkeypatch, capsys, tmp_path):
    """Run tools/train.py in this process; what it says of the error that it ends with."""

    def train(config, *options) -> str:
        work_dir = tmp_path / 'work_dir'
        arguments = [config, '--work-dir', work_dir, '--cfg-options', *options]
        monkeypatch.setattr('sys.argv', ['train.py', *map(str, arguments)])
        monkeypatch.setattr('mmmokd.engine.runners.build_runner.get_device', lambda: 'cpu')
        monkeypatch.delenv('MMMOKD_TRACEBACK', raising=False)
        for name in ('LOCAL_RANK', 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'):
            monkeypatch.setenv(name, '0')  # to be put back: the tool sets them
        with pytest.raises(SystemExit) as exit_info, short_log():
            runpy.run_path(str(ROOT / 'tools' / 'train.py'), run_name='__main__')
        assert exit_info.value.code == 2
        assert not list(work_dir.rglob('*.pth'))
        error, traceback = capsys.readouterr().err.splitlines()[-2:]
        assert error.startswith('error: ') and traceback.startswith('(traceback: ')
        return error.removeprefix('error: ')

    return train


@pytest.mark.parametrize(
    ('kind', 'message'),
    [
        ('gone', 'The folder of images, {folder}, does not exist.'),
        ('empty', 'No image in the folder {folder}: it is empty'),
        ('no image', 'No image in the folder {folder}: it holds 1 files (1 x .txt)'),
        ('too few', 'The training set has 3 images, fewer than one step takes: 32'),
    ],
)
def test_one_message_before_training(tmp_path, train_error, kind, message):
    folder = tmp_path / 'images'
    make(folder, kind)
    text = train_error(CONFIG, f'train_dataloader.dataset.data_root={folder}', *NARROW)
    assert text.startswith(message.format(folder=folder))


@pytest.mark.parametrize(
    ('kind', 'message'),
    [
        ('gone', "No such file or directory: '{folder}/train'"),
        ('empty', "The number of subfolders (0) doesn't match the number of specified classes"),
    ],
)
def test_imagenet_that_is_not_there(tmp_path, train_error, kind, message):
    folder = tmp_path / 'imagenet'
    (folder / 'train').mkdir(parents=True) if kind == 'empty' else None
    config = 'mokd_resnet50_vit-small-p16_16xb16-amp-coslr-100e_in1k.py'
    small = [*NARROW, 'model.neck_defaults.out_channels=8']
    options = [f'train_dataloader.dataset.data_root={folder}', 'auto_scale_lr.enable=False']
    text = train_error(CONFIG.with_name(config), *options, *small)
    message = message.format(folder=folder)
    assert text.startswith(
        f'train_dataloader.dataset (ImageNet) of the config cannot use its data: {message}'
    )
    assert f"data_root='{folder}'" in text


@pytest.mark.parametrize('num_workers', [0, 1])
def test_too_many_unreadable_images(tmp_path, train_error, mokd_config, num_workers):
    folder = tmp_path / 'a, b'  # a text, not a list
    make(folder, 'too few')
    for name in 'pq':
        (folder / f'{name}.png').write_text('no image')
    text = train_error(
        mokd_config,
        f'train_dataloader.dataset.data_root="{folder}"',
        f'train_dataloader.num_workers={num_workers}',
    )
    assert text.startswith('2 of 5 images (40.00%) cannot be read, more than the 1.00%')
    assert f'the last one: {folder}/' in text and 'is not an image that Pillow knows' in text


def test_collapse_that_is_to_stop_the_run(train_error, mokd_config):
    monitor = 'default_hooks.collapse_monitor'
    options = ('stop=True', 'min_std=2', 'patience=1', 'warmup_iters=0')
    text = train_error(mokd_config, *(f'{monitor}.{option}' for option in options))
    assert text.startswith("Branch 'cnn' has collapsed: in 1 checks in a row")
