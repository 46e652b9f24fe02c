# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The quick start on a few drawn images, to its table and its image file."""

import argparse
import importlib.util
import json
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
MAIN = ROOT / 'tools' / 'quickstart' / 'main.py'
CURVES = {'CNN alone', 'ViT alone', 'CNN together', 'ViT together'}


def draw_images(folder: Path, classes: dict[str, int]) -> Path:
    """Noise, its left half brighter in the first class, its right half in others; one is broken."""
    rng = np.random.default_rng(0)
    for level, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            image = rng.integers(0, 100, (80, 90, 3), dtype=np.uint8)
            image[:, 45:] += 100 * (level > 0)
            image[:, :45] += 100 * (level == 0)
            cv2.imwrite(str(folder / name / f'{i}.png'), image)
        (folder / name / 'broken.png').write_bytes(b'no image')
    return folder


@pytest.fixture
def quickstart(run, tmp_path):
    """Run the quick start, from elsewhere, into a folder that a list of options would split."""
    out = tmp_path / 'work dirs, of all'

    def quickstart(*arguments):
        command = [sys.executable, MAIN, *arguments, '--out', out]
        return run(*command, cwd=tmp_path), out

    return quickstart


def test_only_the_same_run_is_gone_on_with(quickstart, tmp_path):
    images = draw_images(tmp_path / 'a' / 'my, own', dict(left=60, right=60))
    done, out = quickstart(images, '--epochs', '2')
    assert done.returncode == 0, done.stdout
    results = json.loads((out / 'results.json').read_text())
    measures = ('k-NN top-1, %', 'k-NN top-1 of the feature map, %')
    assert set(results) == {'raw_pixels', *measures}
    for curves in (results[measure] for measure in measures):
        assert set(curves) == CURVES
        assert all([epoch for epoch, _ in points] == [0, 1, 2] for points in curves.values())
    assert 90 < results['raw_pixels'] <= 100
    table = (out / 'results.md').read_text()
    assert table in done.stdout
    rows = [line.split()[1] for line in table.splitlines() if line.startswith(('| CNN', '| ViT'))]
    assert rows == ['CNN', 'ViT'] * 2
    assert cv2.imread(str(out / 'quickstart.png')).shape[0] > 100

    # As if it had been stopped in the second epoch of the first run, the others being done.
    (out / 'cnn' / 'epoch_2.pth').unlink()
    again, _ = quickstart(images, '--epochs', '2')
    assert again.returncode == 0, again.stdout
    epochs = [line for line in again.stdout.splitlines() if 'Epoch(train)' in line]
    assert epochs and all('[2]' in line for line in epochs)
    assert 'from scratch' not in again.stdout
    assert json.loads((out / 'results.json').read_text()) == results

    # Another folder of that name, and another length: nothing of the above may come back.
    others = draw_images(tmp_path / 'b' / 'my, own', {'': 70})
    other, _ = quickstart(others, '--epochs', '1')
    assert other.returncode == 0, other.stdout
    assert other.stdout.count('holds another run (images, ') == 3
    assert other.stdout.count('starts from scratch') == 3 and 'resumed' not in other.stdout
    results = json.loads((out / 'results.json').read_text())
    assert results['raw_pixels'] is None
    signals = {'effective rank of the features', 'standard deviation of the features'}
    assert signals == set(results) - {'raw_pixels'}
    assert all(set(results[signal]) == CURVES for signal in signals)
    assert all(points[-1][0] <= 1 for signal in signals for points in results[signal].values())
    assert (out / 'quickstart.png').is_file() and 'k-NN' not in (out / 'results.md').read_text()
    assert (out / 'cnn.old1' / 'epoch_2.pth').is_file()


@pytest.fixture
def tool(monkeypatch, tmp_path):
    """The command as a module, writing to a folder of the test's."""
    spec = importlib.util.spec_from_file_location('quickstart', MAIN)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, 'OUT', tmp_path / 'out')
    return module


def test_folders_of_one_name_have_places_of_their_own(tool, tmp_path):
    images = [tmp_path / 'a' / 'my, own', tmp_path / 'b' / 'my, own', Path('/')]
    names = [tool.output_folder(path, seed).name for path in images for seed in (0, 1)]
    names += [tool.output_folder(tmp_path / 'fashion_mnist', 0).name]
    names += [tool.output_folder(None, 0).name]
    assert len(set(names)) == 8 and names[-1] == 'fashion_mnist_seed0'
    assert names[0].startswith('my-own-') and names[0].endswith('_seed0')
    assert all(re.fullmatch(r'[\w.-]+', name) for name in names)


def test_what_makes_a_run_the_same(tool, tmp_path):
    """Settings, config and images, not where these are; and no place depends on where one is."""
    tasks = [
        tool.fashion_mnist(argparse.Namespace(seed=seed, epochs=epochs))
        for seed, epochs in ((0, None), (0, 2), (1, None))
    ]
    cfg = tasks[1].load('cnn')
    assert cfg.train_cfg.max_epochs == 2 and list(cfg.model.branches) == ['cnn']
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.val_cfg.bank_dataloader):
        assert loader.dataset.data_root == str(tmp_path / 'out' / 'data' / 'fashion_mnist')
    records = [task.record(names) for task in tasks for names in ('cnn', 'vit', 'cnn-vit')]
    assert all(records.count(record) == 1 for record in records)
    moved = tasks[0]._replace(places={})
    assert moved.record('cnn') == records[0]
    assert tasks[0]._replace(images='other').record('cnn') != records[0]


@pytest.mark.parametrize(
    'classes, message',
    [
        (None, 'missing, does not exist'),
        ({'': 0}, 'No image in the folder'),
        ({'': 9}, 'has 9 readable images; at least 32 are needed'),
        (
            dict(left=18, right=18),
            'has 36 readable images, of which 8 are kept for testing: 28 are left to train on; '
            'at least 32 are needed',
        ),
    ],
)
def test_bad_folder(quickstart, tmp_path, classes, message):
    images = tmp_path / 'missing'
    if classes is not None:
        images = draw_images(tmp_path / 'images', classes)
        if not any(classes.values()):
            (images / 'broken.png').unlink()
    done, out = quickstart(images)
    assert done.returncode == 2
    assert message in done.stdout and 'Traceback' not in done.stdout, done.stdout
    assert out.exists() == ('readable' in message)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--epochs', '0'], "argument --epochs: '0' is no whole number from 1 up"),
        (['--seed', '-1'], "argument --seed: '-1' is no whole number from 0 up"),
    ],
)
def test_bad_arguments(tool, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, 'argv', ['quickstart', *arguments])
    with pytest.raises(SystemExit, match='2'):
        tool.main()
    assert message in capsys.readouterr().err


@pytest.mark.parametrize('images', ['.', 'out', 'out/images', 'out/cnn', 'out/cnn-vit/mine'])
def test_images_are_not_written_over(tool, monkeypatch, tmp_path, images):
    folder = tmp_path / images
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(sys, 'argv', ['quickstart', str(folder), '--out', str(tmp_path / 'out')])
    with pytest.raises(ValueError, match='Name another folder by --out'):
        tool.main()
    assert not (tmp_path / 'out' / '.lock').exists()
