# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The benchmark of rivals at a tiny size: stopped, resumed, with a teacher, and with failures."""

import gzip
import json
import os
import runpy
import struct
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope, init_default_scope
from mmpretrain.visualization import UniversalVisualizer
from mokd_testing import short_log
from rivals import run_case, trainings
from rivals.cases import Case, Entries, take_size
from rivals.recording import SameStartHook
from rivals.summary import differing_views, write_differences, write_table
from rivals.trainings import Evaluation, costs, describe_command

from mmmokd.cli.config import read_config
from mmmokd.registry import MODELS
from mmmokd.utils.errors import ConfigError, RunStoppedError
from mmmokd.weights import read_checkpoint

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / 'tools' / 'benchmarks' / 'rivals.py'
TABLE = """
methods = {
    'student': dict(
        base='alone',
        teacher='alone',
        pairs=dict(tiny={
            'model.branches.vit.frozen': True,
            'model.branches.vit.heads': None,
            'model.branches.vit.cross_weight': None,
            'model.branches.vit.init_cfg': dict(
                type='Pretrained', checkpoint='', prefix='branches.vit.teacher.'),
            'model.branches.cnn.cross_weight': 1.0,
            'model.branches.cnn.heads.ct': None,
            'optim_wrapper.branches.vit': None,
        }),
    ),
    'missing': dict(algorithm='missing'),
}
small = {
    'model.neck_defaults.out_channels': 16,
    'model.neck_defaults.embed_dims': 8,
    'model.branches.{branch}.projector.hid_channels': 16,
    'model.branches.cnn.backbone.stem_channels': 8,
    'model.branches.cnn.backbone.base_channels': 8,
    'model.branches.vit.backbone.arch': dict(
        embed_dims=8, num_layers=1, num_heads=2, feedforward_channels=16),
    'train_dataloader.batch_size': 16,
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'train_cfg.max_epochs': 2,
    'default_hooks.logger.interval': 1,
}
pairs = dict(tiny=dict(base='fashion-mnist', options=small))
"""


@pytest.fixture
def restored():
    """Puts back what the tools set for their own process."""
    threads = torch.get_num_threads()
    saved = [
        (d, dict(d)) for d in (os.environ, DefaultScope._instance_dict, MMLogger._instance_dict)
    ]
    yield
    for current, before in saved:
        current.clear()
        current.update(before)
    torch.set_num_threads(threads)


def write_idx(file, array):
    """Write numbers as MNIST's files have them."""
    header = struct.pack(f'>HBB{array.ndim}I', 0, 8, array.ndim, *array.shape)
    with gzip.open(file, 'wb') as out:
        out.write(header + array.tobytes())


@pytest.fixture
def fashion_mnist(monkeypatch, tmp_path):
    """Takes the place of the repository's images: 32 to train on, 16 to test on."""
    rng, folder = np.random.default_rng(0), tmp_path / 'packed'
    folder.mkdir()
    for part, count in (('train', 32), ('t10k', 16)):
        labels = np.arange(count, dtype=np.uint8) % 2
        images = rng.integers(0, 100, (count, 28, 28), dtype=np.uint8)
        images[labels == 1, :14] += 100
        write_idx(folder / f'{part}-images-idx3-ubyte.gz', images)
        write_idx(folder / f'{part}-labels-idx1-ubyte.gz', labels)
    monkeypatch.setattr('rivals.data.FASHION_MNIST', folder)
    monkeypatch.setattr('rivals.data.UNPACKED', tmp_path / 'unpacked')


@pytest.fixture
def table(tmp_path):
    file = tmp_path / 'table.py'
    file.write_text(TABLE)
    return file


def dump(config):
    """A config's text in mmengine's order, without the second that its format takes."""
    return ''.join(f'{key} = {value!r}\n' for key, value in sorted(config.to_dict().items()))


@pytest.fixture
def rivals(monkeypatch, restored, fashion_mnist, table, tmp_path):
    """Runs the tool, and what it starts, in this process."""
    tools = []

    def run_here(command, output, show):
        assert Path(command[0]) == Path(run_case.__file__)
        # A process has none of another run, whose names are the same within a second.
        UniversalVisualizer._instance_dict.clear()
        run_case.main(*map(str, command[1:]))

    def run_tool(name, *arguments, run=run_case.run_tool):
        tools.append(name)
        if os.environ.get('STOP') == name:
            raise KeyboardInterrupt
        run(name, *arguments)

    # Of every dataset that is read; of a test's process it takes half a second.
    monkeypatch.setattr('mmengine.dataset.base_dataset.gc.collect', lambda: 0)
    monkeypatch.setattr(trainings, 'run_script', run_here)
    monkeypatch.setattr(run_case, 'run_tool', run_tool)
    common = ['--table', table, '--pairs', 'tiny', '--out', tmp_path / 'out', '--linear-epochs', 1]

    def run(*arguments):
        tools.clear()
        monkeypatch.setattr(sys, 'argv', [str(TOOL), *map(str, [*common, *arguments])])
        with short_log(), patch.object(Config, 'pretty_text', property(dump)):
            runpy.run_path(str(TOOL), run_name='__main__')
        return list(tools)

    return run


def test_stopped_resumed_and_with_a_teacher(rivals, tmp_path, monkeypatch, capsys):
    out = tmp_path / 'out' / 'tiny'
    monkeypatch.setenv('STOP', 'evaluate.py')
    with pytest.raises(SystemExit) as end:
        rivals('--methods', 'alone')
    assert end.value.code == 130 and 'interrupted' in capsys.readouterr().err
    monkeypatch.delenv('STOP')
    run = out / 'alone' / 'seed0'
    whole = read_checkpoint(run / 'epoch_2.pth')['state_dict']
    (run / 'epoch_2.pth').unlink()  # as if it had been stopped in its second epoch

    methods = ('--methods', 'alone', 'missing', 'student')
    with pytest.raises(SystemExit) as end:
        rivals(*methods)
    printed = capsys.readouterr()
    assert end.value.code == 2 and '1 of the runs failed' in printed.err, printed.out
    assert 'failed: tiny/missing/seed0: the config' in printed.out
    again = read_checkpoint(run / 'epoch_2.pth')['state_dict']
    assert all(torch.equal(again[key], value) for key, value in whole.items())
    assert not (run / 'epoch_1.pth').exists()

    results = json.loads((tmp_path / 'out' / 'results.json').read_text())
    alone, teacher, student = (
        json.loads((out / name / 'seed0' / 'record.json').read_text())
        for name in ('alone', 'alone@vit', 'student')
    )
    assert results['records'] == [alone, teacher, student] and [*results['failed']]
    assert alone['views'] == teacher['views'] == student['views']
    first = {branch: alone['curves'][branch]['knn_top1'][0] for branch in ('cnn', 'vit')}
    assert first['vit'] == teacher['curves']['vit']['knn_top1'][0]  # the same backbone
    assert first['cnn'] == student['curves']['cnn']['knn_top1'][0]
    assert [*alone['results']] == ['cnn', 'vit'] and [*teacher['results']] == ['vit']
    assert student['results']['vit'] == teacher['results']['vit'] and student['frozen'] == ['vit']
    assert student['teachers'][0]['seconds'] == teacher['seconds'] > 0
    assert [epoch for epoch, _, _ in alone['curves']['cnn']['knn_top1']] == [0, 1, 2]
    assert alone['steps'] == 4 and alone['memory_mib'] > 100 and alone['machine']['commit']
    assert '--methods alone --pairs tiny --seeds 0 --networks' in alone['command']
    assert cv2.imread(str(tmp_path / 'out' / 'results.png')).shape[0] > 100

    before = (tmp_path / 'out' / 'results.md').read_text()
    assert rivals('--methods', 'alone', 'student') == []  # nothing is run again
    assert (tmp_path / 'out' / 'results.md').read_text().split('\n\n')[0] == before.split('\n\n')[0]
    with pytest.raises(SystemExit):
        rivals('--methods', 'alone', '--cfg-options', 'default_hooks.ema_teacher.base_momentum=0')
    assert 'other settings (default_hooks.ema_teacher.base_momentum: 0.99 -> 0)' in (
        capsys.readouterr().err
    )


def test_entries(table):
    entries = Entries([table])
    method = entries.method('mokd-w0.1')
    assert method.options == {'model.branches.{branch}.cross_weight': 0.1}
    case = Case(entries.method('alone@vit'), entries.pair('tiny'), 3, {'train_cfg.max_epochs': 7})
    options = case.method_options(['cnn', 'vit'])
    assert options['model.branches.cnn'] is None and options['train_cfg.max_epochs'] == 7
    assert options['model.branches.vit.heads.st'] is None and options['randomness.seed'] == 3
    assert 'model.branches.cnn.heads.st' not in options
    assert case.config.startswith('mokd/quickstart/') and case.size is None
    rival = Case(entries.method('missing'), entries.pair('tiny'), 0)
    assert rival.config == 'missing/missing_resnet18_vit-tiny-p4_1xb256-amp-coslr-200e_cifar10.py'
    assert rival.size == 'mokd/quickstart/mokd_cnn-vit_fashion-mnist.py'
    for kind, name, message in (
        ('method', 'mokdd', 'mokdd does not exist; .* Did you mean mokd?'),
        ('method', 'mokd-w', 'mokd-w does not exist'),
        ('pair', 'cifar', 'cifar does not exist; .* Did you mean cifar10?'),
    ):
        with pytest.raises(ConfigError, match=message):
            getattr(entries, kind)(name)
    with pytest.raises(ConfigError, match='tiny has no branch next, but cnn, vit'):
        Case(entries.method('alone@next'), entries.pair('tiny'), 0).method_options(['cnn', 'vit'])
    for text, message in (
        ("methods = dict(a=dict(base='b'), b=dict(base='a'))", 'a -> b -> a is its own base'),
        ('methods = dict(a=dict(option={}))', 'methods.a has option: it takes algorithm,'),
        ('method = dict()', 'is not a table of rivals'),
    ):
        table.write_text(text)
        with pytest.raises(ConfigError, match=message):
            Entries([table]).method('a')


def test_every_shipped_entry_has_its_config():
    entries = Entries()
    for name in entries.tables['methods']:
        method = entries.method(name.replace('<N>', '1'))
        assert method.teacher is None or entries.method(method.teacher)
        cfg = Case(method, entries.pair('cifar10'), 0).load({})
        assert [*cfg.model.branches] == ['cnn', 'vit'], name
    for pair in entries.tables['pairs']:
        assert Case(entries.method('alone'), entries.pair(pair), 0).load({}).train_cfg, pair


def test_branches_of_other_names():
    entries = Entries()
    pair = entries.pair('cifar10-resnets')
    for name in ('mokd-w0.5', 'dogo', 'mcl', 'seed'):
        cfg = Case(entries.method(name), pair, 0).load({})
        branches = cfg.model.branches
        assert {key: b.backbone.depth for key, b in branches.items()} == {
            'resnet18': 18,
            'resnet50': 50,
        }, name
        learning = ['resnet18'] if name == 'seed' else ['resnet18', 'resnet50']
        assert [*cfg.optim_wrapper.branches] == [*cfg.param_scheduler] == learning, name
    # The last one is SEED, whose teacher is the larger model.
    assert branches.resnet50.backbone.init_cfg.prefix == 'branches.resnet50.teacher.backbone.'
    assert cfg.model.neck_defaults.out_channels == 2048 and branches.resnet50.frozen
    assert branches.resnet18.heads.seed.queue_length == 4096
    only = Case(entries.method('alone@resnet50'), pair, 0).load({})
    branches = only.model.branches
    assert branches.resnet18 is None and [*branches.resnet50.heads] == ['sm']
    mokd = Case(entries.method('mokd'), pair, 0).load({}).model.branches.resnet50
    for key in ('backbone', 'projector'):
        assert branches.resnet50[key] == mokd[key]
    assert branches.resnet50.heads.sm.teacher_temp == mokd.heads.sm.teacher_temp


def test_backbones_start_from_the_seed_and_their_name(table):
    entries = Entries([table])

    def start(method, seed):
        cfg = Case(entries.method(method), entries.pair('tiny'), seed).load({})
        init_default_scope('mmpretrain')
        model = MODELS.build(cfg.model)
        SameStartHook().before_train(SimpleNamespace(model=model, seed=seed, iter=0, cfg={}))
        weights = {name: b.student.backbone.state_dict() for name, b in model.branches.items()}
        teachers = {name: b.teacher.backbone.state_dict() for name, b in model.branches.items()}
        torch.testing.assert_close(weights, teachers, rtol=0, atol=0)
        return weights

    first = start('alone', 0)
    torch.testing.assert_close(first, start('mokd', 0), rtol=0, atol=0)
    for name, weights in start('alone', 1).items():
        kernel = next(key for key, value in weights.items() if value.dim() == 4)
        assert not (weights[kernel] == first[name][kernel]).any()


def test_folders_in_place_of_the_images():
    entries = Entries()
    for method, pair in (('bingo', 'cifar10'), ('mcl', 'cifar10-small')):
        case = Case(
            entries.method(method), entries.pair(pair), 0, folders=('some/train', 'some/test')
        )
        cfg, own = case.load({}), Case(case.method, case.pair, 0).load({})
        train = cfg.train_dataloader.dataset
        if method == 'bingo':
            assert train.type == own.train_dataloader.dataset.type  # bags of neighbors
            train, own.train_dataloader.dataset = (
                train.dataset,
                own.train_dataloader.dataset.dataset,
            )
        assert train.pop('max_images', None) == own.train_dataloader.dataset.get('indices')
        pipeline = own.train_dataloader.dataset.pipeline
        assert train == dict(type='mmmokd.ImageFolder', data_root='some/train', pipeline=pipeline)
        bank, test = cfg.test_cfg.bank_dataloader.dataset, cfg.test_dataloader.dataset
        assert (bank.data_root, test.data_root) == ('some/train', 'some/test')
        assert bank.with_label and test.with_label and bank.test_mode and test.test_mode
        assert 'max_images' not in test
    assert '--data some/train some/test' in describe_command(case, Evaluation())


def test_size_of_another_config():
    algorithm = read_config(
        ROOT / 'configs/mokd/mokd_resnet18_vit-tiny-p4_1xb256-amp-coslr-200e_cifar10.py'
    )
    algorithm.default_hooks.prototype_freeze = None
    size = read_config(ROOT / 'configs/mokd/quickstart/mokd_cnn-vit_fashion-mnist.py')
    cfg = take_size(algorithm, size)
    for key in ('train_dataloader', 'optim_wrapper', 'param_scheduler', 'val_cfg', 'train_cfg'):
        assert cfg[key] == size[key], key
    assert cfg.model.branches.cnn.backbone == size.model.branches.cnn.backbone
    assert cfg.model.global_size == 28 and cfg.model.neck_defaults == algorithm.model.neck_defaults
    assert cfg.model.branches.vit.heads == algorithm.model.branches.vit.heads
    hooks = cfg.default_hooks
    assert hooks.prototype_freeze is None and hooks.ema_teacher.base_momentum == 0.99
    assert hooks.initial_val == size.default_hooks.initial_val


def test_table_of_several_seeds():
    def record(seed, knn, views='a', method='mokd'):
        return dict(
            pair='p', method=method, seed=seed, seconds_per_step=0.02, images_per_second=50.0,
            memory_mib=None, seconds=10.0, teachers=[dict(seconds=3.0)], frozen=['vit'],
            views=views, results=dict(cnn=dict(knn_top1=knn), vit=dict(knn_top1=50.0)),
        )  # fmt: skip

    runs = [record(seed, knn) for seed, knn in enumerate((80.0, 82.0, 84.0))]
    rows = [[*map(str.strip, row.split('|')[1:-1])] for row in write_table(runs).splitlines()[2:]]
    # Standard deviation 2, of three seeds.
    assert rows[0][:5] == ['p', 'mokd', 'cnn', '82.00 ± 1.15', '']
    assert rows[0][6:] == ['20.0 ± 0.000', '50.0 ± 0.000', '', '10.0 ± 0.000', '3.00 ± 0.000', '3']
    assert rows[1][2:4] == ['vit (frozen)', '50.00 ± 0.00'] and rows[1][6:11] == [''] * 5
    others = [record(seed, knn, method='alone') for seed, knn in enumerate((81.0, 81.0, 82.0))]
    lines = write_differences([*runs, *others, record(7, 1.0)], 'alone').splitlines()
    # Differences -1, 1 and 2: standard deviation 1.53; the frozen branch is not compared.
    assert [*map(str.strip, lines[-1].split('|')[1:-1])] == [
        'p', 'mokd', 'cnn', '+0.67 ± 0.88', '', '3',
    ]  # fmt: skip
    assert len(lines) == 5 and write_differences(runs, 'alone') == ''
    assert differing_views(runs) == []
    assert differing_views([*runs, record(1, 80.0, 'b', 'mcl')]) == [
        'p, seed 1: mokd / mcl saw different views'
    ]


def test_costs():
    epochs = [
        dict(seconds=9.0, steps=3, memory_mib=7.0, first=True, views='a'),
        dict(seconds=3.0, steps=3, memory_mib=9.0, first=False, views='b'),
    ]
    assert costs(epochs, 4) == dict(
        seconds=12.0, steps=6, seconds_per_step=1.0, images_per_second=4.0, memory_mib=9.0,
        views='a b',
    )  # fmt: skip
    assert costs(epochs[:1], 4)['seconds_per_step'] == 3.0


def test_says_why_a_run_failed(monkeypatch, table, tmp_path):
    def fail(command, output, show):
        Path(output).write_text('Traceback\nRuntimeError: CUDA out of memory\n')
        raise RunStoppedError('run_case.py ended with status 1')

    monkeypatch.setattr(trainings, 'run_script', fail)
    entries = Entries([table])
    benchmark = trainings.Benchmark(tmp_path, entries.method, {})
    case = Case(entries.method('student'), entries.pair('tiny'), 0)
    assert benchmark.run(case) is None
    assert benchmark.failed[case.name] == 'its teacher, tiny/alone@vit/seed0, failed'
    assert benchmark.failed['tiny/alone@vit/seed0'].startswith('RuntimeError: CUDA out of memory (')
