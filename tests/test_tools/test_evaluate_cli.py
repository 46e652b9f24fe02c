# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import itertools
import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mokd_testing import short_log

import mmmokd.models  # noqa: F401
from mmmokd.evaluation import weighted_knn
from mmmokd.registry import MODELS

ROOT = Path(__file__).resolve().parents[2]
EVALUATE = ROOT / 'tools' / 'evaluate.py'
RUNS = itertools.count()
SETTINGS = ('--knn', '3', '5', '--linear-epochs', '4', '--linear-lr', '0.1', '1')


def build(config):
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(dict(config.model, data_preprocessor=config.data_preprocessor))
        model.init_weights()
    return model.eval()


@pytest.fixture(scope='module')
def checkpoint(mokd_config, tmp_path_factory):
    """A checkpoint of the tiny MOKD whose teachers are not its students."""
    model = build(Config.fromfile(mokd_config))
    for branch in model.branches.values():
        for parameter in branch.student.parameters():
            parameter.data.mul_(1.2)
    path = tmp_path_factory.mktemp('checkpoint') / 'epoch_1.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return path


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """Class folders of noise with a tint: 41 images to learn from, 23 to recognize."""
    root = tmp_path_factory.mktemp('classes')
    rng = np.random.default_rng(0)
    for part, count in (('train', 41), ('test', 23)):
        for i in range(count):
            image = rng.integers(0, 150, (64, 64, 3), dtype=np.uint8)
            image[..., i % 3] += 15
            file = root / part / 'abc'[i % 3] / f'{i:02d}.png'
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), image)
    return root / 'train', root / 'test'


@pytest.fixture(scope='module')
def evaluated(run, mokd_config, checkpoint, folders, tmp_path_factory):
    """Output folder and what was printed of an evaluation of both networks by one process."""
    out = tmp_path_factory.mktemp('evaluated')
    done = run(
        *(sys.executable, EVALUATE, mokd_config, checkpoint, '--data', *folders, *SETTINGS),
        *('--networks', 'teacher', 'student', '--work-dir', out / 'run', '--out', out / 'out'),
    )
    assert done.returncode == 0, done.stdout
    return out / 'out', done.stdout


def read(folder):
    files = sorted(folder.glob('*/*.png'), key=lambda file: (file.parent.name, file.name))
    images = np.stack([cv2.imread(str(file))[..., ::-1] for file in files])
    labels = torch.tensor(['abc'.index(file.parent.name) for file in files])
    return torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float(), labels


def test_table_plot_and_figures(evaluated, mokd_config, checkpoint, folders):
    out, printed = evaluated
    found = json.loads((out / 'results.json').read_text())
    assert (found['num_bank'], found['num_queries']) == (41, 23)
    assert set(found['results']) == {
        f'{branch}.{network}' for branch in ('cnn', 'vit') for network in ('teacher', 'student')
    }
    table = (out / 'results.md').read_text().partition('\n\n')[0]
    assert table in printed and str(out / 'results.png') in printed
    assert cv2.imread(str(out / 'results.png')) is not None

    config = Config.fromfile(mokd_config)
    model = build(config)
    model.load_state_dict(torch.load(checkpoint)['state_dict'])
    (bank, bank_labels), (queries, labels) = map(read, folders)
    mean, std = (
        torch.tensor(config.data_preprocessor[key])[:, None, None] for key in ('mean', 'std')
    )
    for network in ('teacher', 'student'):
        with torch.no_grad():
            keys, points = (
                model.extract_feat((images - mean) / std, network) for images in (bank, queries)
            )
        for branch in ('cnn', 'vit'):
            for k in (3, 5):
                classes = weighted_knn(keys[branch], bank_labels, points[branch], k=k)[k][:, 0]
                expected = 100 * (classes == labels).double().mean().item()
                knn = found['results'][f'{branch}.{network}']['knn_top1'][str(k)]
                assert knn == pytest.approx(expected, abs=100 / 23 + 0.01)
    linear = found['results']['cnn.teacher']
    assert set(linear['linear_held_out']) == {'0.1', '1.0'} and linear['linear_lr'] in (0.1, 1.0)


@pytest.mark.dist
def test_two_processes_give_the_same(run, evaluated, mokd_config, checkpoint, folders, tmp_path):
    done = run(
        *('bash', ROOT / 'tools' / 'dist_evaluate.sh', mokd_config, checkpoint, '2'),
        *('--data', *folders, *SETTINGS, '--networks', 'teacher', 'student'),
        *('--work-dir', tmp_path / 'run'),
    )
    assert done.returncode == 0, done.stdout
    results = [
        json.loads((out / 'results.json').read_text())['results']
        for out in (tmp_path / 'run' / 'evaluation', evaluated[0])
    ]
    assert results[0] == results[1]


@pytest.fixture
def evaluate_here(monkeypatch, capfd):
    """Runs the command in this process, which spares the seconds of its imports."""

    def evaluate(*arguments):
        for name in ('LOCAL_RANK', 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'):
            monkeypatch.setenv(name, '0')
        # By default a run is named by the second, in which another may have begun.
        name = f'experiment_name=evaluate_here_{next(RUNS)}'
        command = [str(EVALUATE), *map(str, arguments), '--cfg-options', name]
        monkeypatch.setattr(sys, 'argv', command)
        status = 0
        try:
            with short_log():
                runpy.run_path(str(EVALUATE), run_name='__main__')
        except SystemExit as end:
            status = end.code
        return status, ''.join(capfd.readouterr())

    return evaluate


def test_classifier_of_mmpretrain(evaluate_here, tiny_config, tmp_path):
    """Its config has no bank: the images it was trained on, read as the test reads them."""
    config = Config.fromfile(tiny_config)
    file = tmp_path / 'weights.pth'
    torch.save(dict(state_dict=build(config).state_dict()), file)
    command = (file, '--knn', '1', '--linear-lr', 'authors', '--linear-epochs', '2')
    own = tmp_path / 'run'
    # It would be tested on what it has learned from.
    status, printed = evaluate_here(tiny_config, *command, '--work-dir', own)
    assert status == 2 and 'error: 8 of 8 queries are also images of the bank' in printed
    copied = tmp_path / 'copied'  # of other names: for all that is known, other images
    shutil.copytree(tiny_config.parent / 'images', copied)
    other = tmp_path / 'other.py'
    other.write_text(
        tiny_config.read_text()
        + f"train_dataloader['dataset'] = dict(train_dataloader['dataset'], data_root={str(copied)!r})"
    )
    status, printed = evaluate_here(other, *command, '--work-dir', own)
    assert status == 0, printed
    found = json.loads((own / 'evaluation' / 'results.json').read_text())
    assert found['results']['backbone']['knn_top1'] == {'1': 100}
    assert found['results']['backbone']['linear_lr'] == 0.01


def test_a_folder_evaluated_on_itself(evaluate_here, mokd_config, checkpoint, tmp_path):
    """Random labels are not recognized, under whatever name a folder is given twice."""
    rng = np.random.default_rng(1)
    folder, linked = tmp_path / 'noise', tmp_path / 'linked'
    for i in range(60):
        file = folder / 'ab'[rng.integers(2)] / f'{i}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    for file in folder.glob('*/*.png'):
        link = linked / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    command = (mokd_config, checkpoint, '--knn', '1', '--work-dir', tmp_path / 'run')
    status, printed = evaluate_here(*command, '--data', folder, linked)
    assert status == 2 and 'tested on what it has learned' in printed
    status, printed = evaluate_here(*command, '--data', folder, linked, '--no-linear')
    assert status == 0 and '60 of 60 queries are also images of the bank' in printed
    results = tmp_path / 'run' / 'evaluation'
    found = json.loads((results / 'results.json').read_text())
    assert found['num_queries_in_bank'] == 60
    assert all(30 < network['knn_top1']['1'] < 70 for network in found['results'].values())
    assert 'none is its own neighbor' in (results / 'results.md').read_text()


def without_b(folders, tmp_path):
    for file in [*(folders[0] / 'a').iterdir(), *(folders[0] / 'c').iterdir()]:
        copy = tmp_path / 'train' / file.parent.name / file.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    return tmp_path / 'train', folders[1]


def one_class(folders, tmp_path):
    parts = [tmp_path / 'one' / folder.name for folder in folders]
    for folder, part in zip(folders, parts, strict=True):
        shutil.copytree(folder / 'a', part / 'a')
    return parts


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (lambda folders, tmp: (), 'has no labeled images .* --data TRAIN TEST'),
        (lambda folders, tmp: ('--data', *without_b(folders, tmp)), r'in the queries only \(b\)'),
        (
            lambda folders, tmp: ('--data', folders[0] / 'a', folders[1]),
            'needs a folder for each class in .*train/a',
        ),
        (
            lambda folders, tmp: ('--data', *folders, '--knn', '10', '50'),
            'k=50 neighbors needs a bank of at least 50 .* the bank has 41',
        ),
        (lambda folders, tmp: ('--data', *folders, '--linear-epochs', '0'), 'epochs=0'),
        (
            lambda folders, tmp: ('--data', *2 * [folders[0].parent / 'train'], '--knn', '41'),
            r'k=41 .* at least 42 images, for 1 of them can be the query itself',
        ),
        (
            lambda folders, tmp: ('--data', *one_class(folders, tmp)),
            "all 14 images of the bank are of one class, 'a': .* accuracy means nothing",
        ),
    ],
)
def test_a_mistake_is_one_line(
    evaluate_here, mokd_config, checkpoint, folders, tmp_path, arguments, message
):
    command = (mokd_config, checkpoint, '--work-dir', tmp_path / 'run', '--out', tmp_path / 'out')
    status, printed = evaluate_here(*command, *arguments(folders, tmp_path))
    assert status == 2
    (line,) = [line for line in printed.splitlines() if line.startswith('error')]
    assert re.search(message, line), line
    assert not list(tmp_path.glob('out/*'))


def test_bad_checkpoint(evaluate_here, mokd_config, checkpoint, folders, tmp_path):
    cut = tmp_path / 'cut.pth'
    cut.write_bytes(checkpoint.read_bytes()[:20000])
    status, printed = evaluate_here(mokd_config, cut, '--data', *folders)
    assert status == 2 and f'error: checkpoint {cut} ' in printed
    weights = torch.load(checkpoint)['state_dict']
    weights.pop('branches.vit.teacher.backbone.cls_token')
    torch.save(weights, cut)
    command = (mokd_config, cut, '--data', *folders, '--knn', '3', '--out', tmp_path / 'out')
    status, printed = evaluate_here(*command, '--work-dir', tmp_path)
    assert status == 2 and 'branches.vit.teacher.backbone.cls_token' in printed
    assert not list(tmp_path.glob('out/*'))
