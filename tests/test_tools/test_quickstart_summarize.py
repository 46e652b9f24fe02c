# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import json
import sys

import pytest
import summarize
from quickstart_runs import REPORT
from quickstart_tables import ACCURACIES, PROBE_METRIC

NAMES = ('CNN alone', 'ViT alone', 'CNN together', 'ViT together')


@pytest.fixture
def folders(tmp_path):
    """Two quick starts: the pair gains 1 and 3 points in the end, by a linear probe 2 and 4."""
    for seed in (0, 1):
        gains = dict.fromkeys(NAMES[:2], 0) | dict.fromkeys(NAMES[2:], 1 + 2 * seed)
        curves = {name: [[0, 50.0], [1, 60.0 + seed], [2, 70.0 + gains[name]]] for name in NAMES}
        results = dict(raw_pixels=80.0, **dict.fromkeys(ACCURACIES, curves))
        results[PROBE_METRIC] = {name: 80.0 + gain + bool(gain) for name, gain in gains.items()}
        results['epoch_seconds'] = {'CNN alone': 1.0 + seed, 'ViT alone': 2.0, 'together': 4.0}
        (tmp_path / f'{seed}').mkdir()
        for name in REPORT:
            (tmp_path / f'{seed}' / name).write_text(json.dumps(results))
    return [tmp_path / '0', tmp_path / '1']


def call(monkeypatch, folders):
    monkeypatch.setattr(sys, 'argv', ['summarize', *map(str, folders)])
    summarize.main()


def change(folder, **values):
    file = folder / REPORT[1]
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_means_and_standard_errors(monkeypatch, capsys, folders):
    call(monkeypatch, folders)
    printed = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in printed.splitlines()]
    assert ['CNN, linear probe top-1, %', '80.00', '83.00', '2.00, 4.00', '3.00 ± 1.00'] in rows
    assert ['ViT, k-NN top-1, %', '70.00', '72.00', '1.00, 3.00', '2.00 ± 1.00'] in rows
    assert rows.count(['CNN alone', '50.00', '60.50', '70.00']) == 2
    assert rows.count(['ViT, difference', '0.00 ± 0.00', '0.00 ± 0.00', '2.00 ± 1.00']) == 2
    assert 'CNN alone 1.5 s, ViT alone 2.0 s, together 4.0 s, which is 1.14 of both' in printed


def test_what_cannot_be_compared_is_named(monkeypatch, capsys, folders):
    first, second = folders
    with pytest.raises(SystemExit):
        call(monkeypatch, [first])
    assert 'at least two folders' in capsys.readouterr().err
    with pytest.raises(ValueError, match=f'{first.parent} holds no finished quick start'):
        call(monkeypatch, [first, first.parent])
    change(second, raw_pixels=None)
    with pytest.raises(ValueError, match='1 holds a quick start of images without labels'):
        call(monkeypatch, folders)
    longer = dict.fromkeys(NAMES, [[0, 50.0], [3, 60.0]])
    change(second, raw_pixels=80.0, **dict.fromkeys(ACCURACIES, longer))
    with pytest.raises(ValueError, match=r'other epochs: their ends \[2, 3\]'):
        call(monkeypatch, folders)
