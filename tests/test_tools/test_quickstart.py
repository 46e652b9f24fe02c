# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The quick start on a few drawn images, to its table and its image file."""

import json
import sys
from pathlib import Path

import cv2
import main
import numpy as np
import pytest
import quickstart_runs
from mokd_testing import short_log
from quickstart_tables import ACCURACIES, PROBE_METRIC, SIGNALS

from mmmokd.cli.config import load_config, set_dataloader_defaults
from mmmokd.engine.runners.build_runner import build_runner
from mmmokd.utils.errors import ConfigError

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


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
def out(tmp_path):
    """A folder that a list of options would split at its comma."""
    return tmp_path / 'work dirs, of all'


@pytest.fixture
def quickstart(monkeypatch, capsys, out):
    """Run the quick start in this process; returns what it printed."""

    def quickstart(*arguments):
        command = ['quickstart', *map(str, arguments), '--out', str(out)]
        monkeypatch.setattr(sys, 'argv', command)
        main.main()
        return capsys.readouterr().out

    return quickstart


def check_curves(out, metrics, epochs=None):
    """The curves of the report; with ``epochs`` they are at these."""
    results = json.loads((out / 'results.json').read_text())
    probe = {PROBE_METRIC} if metrics == ACCURACIES else set()
    assert set(results) == {'raw_pixels', *metrics, *probe, 'epoch_seconds'}
    for curves in (results[metric] for metric in metrics):
        assert set(curves) == {'CNN alone', 'ViT alone', 'CNN together', 'ViT together'}
        for points in curves.values():
            assert epochs is None or [epoch for epoch, _ in points] == epochs
    assert cv2.imread(str(out / 'quickstart.png')).shape[0] > 100
    return results


def test_labeled_images_stopped_resumed_and_shown_again(quickstart, out, tmp_path, monkeypatch):
    images = draw_images(tmp_path / 'a' / 'my, own', dict(left=60, right=60))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    printed = quickstart(images, '--epochs', '2')
    results = check_curves(out, ACCURACIES, epochs=[0, 1, 2])
    assert 90 < results['raw_pixels'] <= 100
    table = (out / 'results.md').read_text()
    assert table in printed and 'Epoch(val) [2]' in printed and 'Epoch(test)' not in printed
    rows = [line[2:5] for line in table.splitlines() if line.startswith(('| CNN', '| ViT'))]
    assert rows == ['CNN', 'ViT'] * 5
    evaluated = json.loads((out / 'cnn-vit' / 'evaluation' / 'results.json').read_text())
    assert evaluated['checkpoint'] == str(out / 'cnn-vit' / 'epoch_2.pth')
    assert (evaluated['num_bank'], evaluated['num_queries']) == (96, 24)
    for branch, name in (('cnn', 'CNN'), ('vit', 'ViT')):
        found = evaluated['results'][f'{branch}.teacher']
        assert results[PROBE_METRIC][f'{name} together'] == found['linear_top1']
        assert results['k-NN top-1, %'][f'{name} together'][-1][1] == found['knn_top1']['20']

    # As if it had been stopped in the second epoch of the first run, the others being done.
    (out / 'cnn' / 'epoch_2.pth').unlink()
    del results['epoch_seconds']  # as in a report of an earlier version, which has no probe either
    (out / 'results.json').write_text(json.dumps(results))
    resumed = quickstart('--resume')
    epochs = [line for line in resumed.splitlines() if 'Epoch(train)' in line]
    assert epochs and all('[2]' in line for line in epochs)
    assert resumed.count('finished by an earlier call') == 2
    again = check_curves(out, ACCURACIES)
    assert {**again, 'epoch_seconds': 0} == {**results, 'epoch_seconds': 0}

    table = (out / 'results.md').read_text()
    shown = quickstart(images, '--epochs', '2')
    assert table in shown and 'run 1 of 3' not in shown
    with pytest.raises(ConfigError, match='holds a quick start of other settings'):
        quickstart(images, '--epochs', '1')


def test_images_without_classes(quickstart, out, tmp_path, monkeypatch):
    def train_here(command, output, show):
        _, config, _, work_dir, *options = command
        assert options == ['--resume', 'auto', '--no-validate']
        cfg = load_config(config)
        cfg.update(work_dir=str(work_dir), experiment_name=work_dir.name)
        cfg.update(dict.fromkeys(('val_dataloader', 'val_cfg', 'val_evaluator')))
        set_dataloader_defaults(cfg)
        with short_log():
            build_runner(cfg).train()

    monkeypatch.setattr(quickstart_runs, 'run_script', train_here)
    quickstart(draw_images(tmp_path / 'images', {'': 40}), '--epochs', '1')
    results = check_curves(out, SIGNALS)
    assert results['raw_pixels'] is None and 'k-NN' not in (out / 'results.md').read_text()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['missing'], 'missing, does not exist'),
        (['empty'], 'No image in the folder'),
        (['.'], 'Name another folder by --out'),
        (['--epochs', '0'], '--epochs must be at least 1, but is 0'),
        (['--seed', '-1'], '--seed must be at least 0, but is -1'),
        (['--resume', '--overwrite'], 'not allowed with'),
    ],
)
def test_bad_arguments_leave_no_folder(monkeypatch, capsys, tmp_path, arguments, message):
    (tmp_path / 'empty').mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['quickstart', *arguments, '--out', str(tmp_path / 'out')])
    with pytest.raises((SystemExit, ValueError, FileNotFoundError)) as error:
        main.main()
    assert message in capsys.readouterr().err + str(error.value)
    assert not (tmp_path / 'out').exists()
