# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Results in READMEs and metafiles are those of the logs in the repository."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / '.dev_scripts' / 'model_zoo.py'
CIFAR = 'mokd_resnet18_vit-tiny-p4_1xb256-amp-coslr-200e_cifar10'


def run(*arguments):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_repository_says_what_its_logs_say():
    done = run('--check')
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def checkout(tmp_path):
    """A copy of what results are listed in, without any log."""
    for metafile in (ROOT / 'configs').glob('*/metafile.yml'):
        folder = tmp_path / 'root' / 'configs' / metafile.parent.name
        shutil.copytree(metafile.parent, folder, ignore=shutil.ignore_patterns('results'))
    assert run('--root', tmp_path / 'root').returncode == 0
    return tmp_path / 'root'


def record(folder, seed, knn, **changes):
    """Write a record of the CIFAR-10 config."""
    content = dict(
        method='mokd', pair='cifar10', seed=seed, config=f'configs/mokd/{CIFAR}.py', size=None,
        options={'randomness.seed': seed}, epochs=200, seconds=90.0, teachers=[],
        command=f'python tools/benchmarks/rivals.py --methods mokd --pairs cifar10 --seeds {seed}',
        machine=dict(gpu='GPU X', commit=f'c{seed}', date='2026-11-26'),
        curves=dict(cnn=dict(knn_top1=[[0, 0.0, 30.0], [200, 90.0, knn]])),
        results=dict(cnn=dict(knn_top1=knn, linear_top1=90.0), vit=dict(knn_top1=50.0)),
    )  # fmt: skip
    file = folder / f'{seed}.json'
    file.write_text(json.dumps({**content, **changes}))
    return file


def test_rows_come_from_logs(checkout, tmp_path):
    readme, metafile = (checkout / 'configs/mokd' / name for name in ('README.md', 'metafile.yml'))
    before = readme.read_text(), metafile.read_text()
    files = [record(tmp_path, seed, knn) for seed, knn in enumerate((80.0, 82.0))]
    assert run('--root', checkout, '--add', *files).returncode == 0
    logs = checkout / 'configs/mokd/results'
    assert sorted(file.name for file in logs.iterdir()) == [
        'cifar10_mokd_seed0.json', 'cifar10_mokd_seed1.json',
    ]  # fmt: skip
    assert run('--root', checkout, '--check').returncode == 0
    text = readme.read_text()
    row = next(line for line in text.splitlines() if line.startswith(f'| [`{CIFAR}`]'))
    assert row.endswith('| 200 | 256 | k-NN 81.00 ± 1.00 / 50.00 ± 0.00 |')
    cells = [' '.join(line.split()) for line in text.splitlines() if '| mokd ' in line]
    assert cells[0].startswith(f'| `{CIFAR}` | mokd | cnn | 81.00 ± 1.00 | 90.00 ± 0.00 |')
    assert (
        '| 200 | 2 | GPU X | 1.5 min | c0, c1 | [0](./results/cifar10_mokd_seed0.json)' in cells[0]
    )
    assert '--methods mokd --pairs cifar10 --seeds 0 1\n' in text
    models = {each['Name']: each for each in yaml.safe_load(metafile.read_text())['Models']}
    (found,) = models.pop(CIFAR)['Results']
    assert found['Dataset'] == 'CIFAR-10' and found['Metrics']['cnn k-NN Top 1 Accuracy'] == 81.0
    assert 'vit Linear Top 1 Accuracy' not in found['Metrics']
    assert all(each['Results'] is None for each in models.values())

    # A run with other options is in the table of results, and not in the row of the config.
    file = record(tmp_path, 0, 70.0, method='x', options={'model.neck_defaults.out_channels': 9})
    for log in logs.iterdir():
        log.unlink()
    assert run('--root', checkout, '--add', file).returncode == 0
    assert metafile.read_text() == before[1] and '| x ' in readme.read_text()
    assert 'k-NN 70' not in readme.read_text()

    (logs / 'cifar10_x_seed0.json').unlink()
    done = run('--root', checkout, '--check')
    assert done.returncode == 1 and 'README.md: not as its logs say' in done.stdout
    assert run('--root', checkout).returncode == 0
    assert (readme.read_text(), metafile.read_text()) == before


def test_refuses_what_is_no_log(checkout, tmp_path):
    logs = checkout / 'configs/mokd/results'
    logs.mkdir()
    for name, changes, message in (
        ('cifar10_mokd_seed0.json', dict(epochs=100), 'the curve of cnn does not end at its last'),
        ('other.json', {}, 'should be named cifar10_mokd_seed0.json'),
        (
            'cifar10_mokd_seed0.json',
            dict(config='configs/mokd/x.py'),
            'x.py does not exist in mokd',
        ),
    ):
        shutil.copy(record(tmp_path, 0, 80.0, **changes), logs / name)
        done = run('--root', checkout, '--check')
        assert done.returncode == 1 and message in done.stderr, done.stderr
        (logs / name).unlink()
