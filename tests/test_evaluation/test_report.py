# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import pytest
from mmengine.config import Config

from mmmokd.cli.config import load_config, set_dataloader_defaults
from mmmokd.evaluation import report
from mmmokd.evaluation.report import (
    check_out,
    collect_results,
    results_table,
    set_evaluation,
    write_results,
)
from mmmokd.utils.errors import CannotWriteError

ROOT = Path(__file__).resolve().parents[2]
METRICS = {
    'cnn.teacher/knn_top1': 50.0,
    'cnn.teacher/knn_top5': 90.0,
    'cnn.teacher/knn_top1_k20': 51.25,
    'cnn.teacher/knn_top5_k20': 91.0,
    'vit.teacher/knn_top1': 40.0,
    'vit.teacher/knn_top5': 80.0,
    'vit.teacher/knn_top1_k20': 41.0,
    'vit.teacher/knn_top5_k20': 81.0,
    'cnn.teacher/linear_top1': 60.0,
    'cnn.teacher/linear_top5': 95.0,
    'cnn.teacher/linear_lr': 0.01,
    'cnn.teacher/linear_held_out_lr0.001': 55.0,
    'cnn.teacher/linear_held_out_lr0.01': 59.0,
    'vit.teacher/linear_top1': 61.0,
    'vit.teacher/linear_top5': 96.0,
    'vit.teacher/linear_lr': 10.0,
    'vit.teacher/linear_held_out_lr0.001': 56.0,
    'vit.teacher/linear_held_out_lr10': 60.0,
}
TABLE = """\
| top-1, %    | 10-NN | 20-NN | linear | linear, top-5 | linear, lr |
| ----------- | ----- | ----- | ------ | ------------- | ---------- |
| cnn.teacher | 50.00 | 51.25 | 60.00  | 95.00         | 0.01       |
| vit.teacher | 40.00 | 41.00 | 61.00  | 96.00         | 10         |"""
FACTS = dict(checkpoint='epoch_1.pth', num_bank=100, num_queries=7)


def test_results(tmp_path):
    results = collect_results(METRICS, (10, 20))
    assert results['vit.teacher'] == dict(
        knn_top1={10: 40.0, 20: 41.0},
        knn_top5={10: 80.0, 20: 81.0},
        linear_top1=61.0,
        linear_top5=96.0,
        linear_lr=10.0,
        linear_held_out={0.001: 56.0, 10.0: 60.0},
    )
    out = check_out(tmp_path / 'new' / 'folder')
    assert write_results(out, results, FACTS) == results_table(results) == TABLE
    assert sorted(path.name for path in out.iterdir()) == [
        'results.json',
        'results.md',
        'results.png',
    ]
    text = (out / 'results.md').read_text()
    assert text.startswith(TABLE) and '100 labeled images to learn from, 7 to' in text
    found = json.loads((out / 'results.json').read_text())
    assert found['results']['cnn.teacher']['knn_top1'] == {'10': 50.0, '20': 51.25}
    assert found['num_queries'] == 7


def test_knn_alone(tmp_path):
    metrics = {'backbone/knn_top1': 50.0, 'backbone/knn_top5': 70.0}
    table = write_results(tmp_path, collect_results(metrics, (5,)), FACTS)
    assert table.splitlines()[0] == '| top-1, % | 5-NN  |'
    assert (tmp_path / 'results.png').stat().st_size > 1000


def test_failed_plot_leaves_no_half_result(tmp_path, monkeypatch):
    (tmp_path / 'results.md').write_text('of before')

    def fail(path, *args):
        Path(path).write_text('half')
        raise RuntimeError('no space left')

    monkeypatch.setattr(report, 'plot_evaluation', fail)
    with pytest.raises(RuntimeError, match='no space left'):
        write_results(tmp_path, collect_results(METRICS, (10, 20)), FACTS)
    assert [path.name for path in tmp_path.iterdir()] == ['results.md']
    assert (tmp_path / 'results.md').read_text() == 'of before'


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(CannotWriteError, match='cannot write to the folder'):
        check_out(tmp_path / 'file' / 'out')


def config(name, **options):
    cfg = load_config(ROOT / 'configs' / 'mokd' / f'{name}.py', options)
    set_dataloader_defaults(cfg)
    return cfg


def names(pipeline):
    return [transform['type'] for transform in pipeline]


CROPPED = ['mmmokd.LoadImage', 'ResizeEdge', 'CenterCrop', 'PackInputs']


@pytest.mark.parametrize(
    ('name', 'edge', 'size'),
    [
        ('mokd_resnet18_vit-tiny-p16_1xb32-coslr-100e_folder', 146, 128),  # has no test's pipeline
        ('mokd_resnet50_vit-small-p16_16xb16-amp-coslr-100e_in1k', 256, 224),
        ('mokd_resnet18_vit-tiny-p4_1xb256-amp-coslr-200e_cifar10', 32, 32),
        ('quickstart/mokd_cnn-vit_folder', 64, 64),
    ],
)
def test_folders_are_read_as_the_config_reads(name, edge, size):
    cfg = config(name)
    set_evaluation(cfg, data=('train', 'test'), networks=('student',), linear_epochs=3)
    for loader, folder in ((cfg.test_cfg.bank_dataloader, 'train'), (cfg.test_dataloader, 'test')):
        assert loader.dataset.data_root == folder and loader.dataset.with_label
        pipeline = loader.dataset.pipeline
        assert names(pipeline) == CROPPED
        assert (pipeline[1].scale, pipeline[2].crop_size) == (edge, size)
    assert cfg.test_cfg.networks == ('student',)
    assert cfg.test_evaluator[1]['epochs'] == 3


def test_own_sets_of_a_config():
    cfg = config('mokd_resnet50_vit-small-p16_16xb16-amp-coslr-100e_in1k')
    bank = cfg.test_cfg.bank_dataloader
    set_evaluation(cfg, linear=False, ks=(7,))
    assert cfg.test_cfg.bank_dataloader == bank and cfg.test_dataloader.dataset.split == 'val'
    assert [metric['type'] for metric in cfg.test_evaluator] == ['mmmokd.KNNMetric']


def test_one_labeled_set_is_left_to_the_loop():
    cfg = config(
        'mokd_resnet18_vit-tiny-p16_1xb32-coslr-100e_folder-knn',
        **{'test_dataloader.dataset.data_root': 'mine', 'val_cfg.bank_share': 0.5},
    )
    set_evaluation(cfg)
    assert cfg.test_dataloader.dataset.data_root == 'mine'
    assert cfg.test_cfg.bank_dataloader is None and cfg.test_cfg.bank_share == 0.5


@pytest.mark.parametrize(
    ('change', 'data', 'message'),
    [
        (dict(train_dataloader=dict()), None, 'no labeled images .* --data TRAIN TEST'),
        (
            dict(
                test_dataloader=dict(dataset=dict(pipeline=[])),
                train_dataloader=dict(dataset=dict(type='RepeatDataset')),
            ),
            None,
            'neither test_cfg.bank_dataloader nor',
        ),
        (dict(), ('a', 'b'), 'the config does not define how images are read'),
    ],
)
def test_config_that_does_not_say_what_to_read(change, data, message):
    with pytest.raises(ValueError, match=message):
        set_evaluation(Config(dict(model=dict(), **change)), data=data)
