# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The quick start on a few drawn pictures, to its table and its picture file."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

pytestmark = pytest.mark.slow
CURVES = {'CNN alone', 'ViT alone', 'CNN together', 'ViT together'}


def draw_pictures(folder: Path, classes: dict[str, int]) -> Path:
    """Noise, its left half brighter in the first class, its right half in others; one is broken."""
    rng = np.random.default_rng(0)
    for level, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            picture = rng.integers(0, 100, (80, 90, 3), dtype=np.uint8)
            picture[:, 45:] += 100 * (level > 0)
            picture[:, :45] += 100 * (level == 0)
            cv2.imwrite(str(folder / name / f'{i}.png'), picture)
        (folder / name / 'broken.png').write_bytes(b'no picture')
    return folder


@pytest.fixture
def quickstart(run, tmp_path):
    def quickstart(*arguments):
        done = run(sys.executable, 'tools/quickstart.py', *arguments, '--out', tmp_path / 'out')
        return done, tmp_path / 'out'

    return quickstart


def test_class_folders_give_accuracies_and_a_second_call_finds_them(quickstart, tmp_path):
    pictures = draw_pictures(tmp_path / 'pictures', dict(left=60, right=60))
    done, out = quickstart(pictures, '--epochs', '2')
    assert done.returncode == 0, done.stdout
    results = json.loads((out / 'results.json').read_text())
    curves = results['k-NN top-1, %']
    assert set(curves) == CURVES
    assert all([epoch for epoch, _ in points] == [0, 1, 2] for points in curves.values())
    assert 90 < results['raw_pixels'] <= 100
    table = (out / 'results.md').read_text()
    assert table in done.stdout
    assert [line.split()[1] for line in table.splitlines()[2:]] == ['CNN', 'ViT']
    assert cv2.imread(str(out / 'quickstart.png')).shape[0] > 100

    again, _ = quickstart(pictures, '--epochs', '2')
    assert again.returncode == 0, again.stdout
    assert 'Epoch(train)' not in again.stdout
    assert (out / 'results.md').read_text() == table


def test_pictures_without_classes_give_label_free_signals(quickstart, tmp_path):
    done, out = quickstart(draw_pictures(tmp_path / 'pictures', {'': 70}), '--epochs', '1')
    assert done.returncode == 0, done.stdout
    results = json.loads((out / 'results.json').read_text())
    assert results['raw_pixels'] is None
    signals = {'effective rank of the features', 'standard deviation of the features'}
    assert signals == set(results) - {'raw_pixels'}
    assert all(set(results[signal]) == CURVES for signal in signals)
    assert (out / 'quickstart.png').is_file()


@pytest.mark.parametrize(
    'count, message',
    [(None, 'missing'), (0, 'No picture in the folder'), (9, 'at least 32 are needed')],
)
def test_bad_folder(quickstart, tmp_path, count, message):
    pictures = tmp_path / 'missing'
    if count is not None:
        pictures = draw_pictures(tmp_path / 'pictures', {'': count})
        if not count:
            (pictures / 'broken.png').unlink()
    done, _ = quickstart(pictures)
    assert done.returncode == 2
    assert message in done.stdout and 'Traceback' not in done.stdout, done.stdout
