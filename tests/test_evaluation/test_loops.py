# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import pytest
import torch
from loops_testing import Angles, build_runner, loader, plain_accuracy

import mmmokd.evaluation
from mmmokd.evaluation import FeatureMetric, KNNMetric
from mmmokd.evaluation.metrics import FeatureSet
from mmmokd.registry import METRICS


def test_validation_while_training_with_save_best(tmp_path):
    checkpoint = dict(type='CheckpointHook', interval=1, save_best='b.teacher/knn_top1')
    runner, recorder = build_runner(
        tmp_path,
        loop=dict(networks=('teacher', 'student')),
        default_hooks=dict(checkpoint=checkpoint),
    )
    runner.train()
    one = ['before_val', 'before_val_epoch', *3 * ['before_val_iter', 'after_val_iter']]
    one += ['after_val_epoch', 'after_val']
    assert recorder.calls == 3 * one
    assert set(recorder.metrics) == {
        f'{branch}.{network}/knn_{top}'
        for branch in 'ab'
        for network in ('teacher', 'student')
        for top in ('top1', 'top5')
    }
    queries, bank = Angles(40, seed=1), Angles(100, seed=2)
    expected = plain_accuracy(bank, queries, k=5)
    assert expected > 90
    assert recorder.metrics['a.teacher/knn_top1'] == pytest.approx(expected)
    assert recorder.metrics['a.student/knn_top1'] < 50
    history = runner.message_hub.get_scalar('val/b.teacher/knn_top1').data[0]
    assert history[0] < 50 and history[1] == history[2] == pytest.approx(expected)
    assert (tmp_path / 'best_b.teacher_knn_top1_epoch_2.pth').is_file()
    assert not list(tmp_path.glob('best*epoch_[13].pth'))


def test_early_stopping(tmp_path):
    stopping = dict(type='EarlyStoppingHook', monitor='a.teacher/knn_top1', patience=1)
    runner, recorder = build_runner(tmp_path, default_hooks=dict(stopping=stopping))
    runner.train()
    assert recorder.calls.count('after_val') == 2


def test_iteration_based_training(tmp_path):
    runner, recorder = build_runner(
        tmp_path, train_cfg=dict(by_epoch=False, max_iters=4, val_interval=2)
    )
    runner.train()
    assert recorder.calls.count('after_val') == 2


def test_test_loop(tmp_path):
    metric = [dict(type='mmmokd.KNNMetric', k=(5, 1), topk=(1,)), dict(type=MeanNorm)]
    runner, recorder = build_runner(tmp_path, mode='test', metric=metric)
    metrics = runner.test()
    assert set(metrics) == {
        f'{branch}.teacher/{name}'
        for branch in 'ab'
        for name in ('knn_top1', 'knn_top1_k1', 'mean_norm')
    }
    assert metrics == recorder.metrics
    assert recorder.calls[-2:] == ['after_test_epoch', 'after_test']
    assert metrics['a.teacher/knn_top1_k1'] == pytest.approx(
        plain_accuracy(Angles(100, seed=2), Angles(40, seed=1), k=1)
    )
    (log,) = Path(runner.log_dir).glob('*.json')
    assert json.loads(log.read_text())['a.teacher/knn_top1'] == metrics['a.teacher/knn_top1']


class MeanNorm(FeatureMetric):
    def evaluate_features(self, bank, bank_labels, queries, query_labels):
        return dict(mean_norm=queries.norm(dim=1).mean().item())


NOT_COLLATED = dict(loader(Angles(40, seed=1)), collate_fn=dict(type='pseudo_collate'))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(bank=Angles(4, seed=2)), 'k=5 .* the bank has 4'),
        (dict(queries=Angles(4, seed=2, labeled=False)), '0.jpg of Angles has no gt'),
        (dict(bank=Angles(9, seed=2, labeled=False)), '0.jpg of Angles has no gt'),
        (
            dict(metric=[dict(type='Accuracy')]),
            'such as mmmokd.KNNMetric, but got Accuracy',
        ),
        (dict(loop=dict(networks=())), 'at least one network'),
        (dict(loop=dict(bank_dataloader=None)), 'LabeledShare takes a dataset of mm'),
        (dict(loop=dict(bank_dataloader=None, bank_share=1)), 'bank_share must be'),
        (dict(loop=dict(bank_dataloader=dict(batch_size=2))), 'needs a dataset'),
        (dict(val_dataloader=NOT_COLLATED), 'gave a list: .*default_collate'),
        (dict(loop=dict(bank_dataloader=NOT_COLLATED)), 'gave a list: .*default_co'),
    ],
)
def test_errors_come_before_training(tmp_path, change, message):
    runner, recorder = build_runner(tmp_path, **change)
    with pytest.raises(ValueError, match=message):
        runner.train()
    assert recorder.calls == [] and runner.iter == 0


def test_knn_metric_names_the_network_at_fault():
    metric = KNNMetric(k=1)
    labels = torch.zeros(2, dtype=torch.long)
    broken = torch.full((2, 1, 3), torch.nan)
    metric.process(None, [FeatureSet('cnn.teacher', torch.ones(2, 1, 3), labels, broken, labels)])
    with pytest.raises(ValueError, match='KNNMetric of cnn.teacher: 2 of 2 query features'):
        metric.evaluate(size=2)
    assert metric.results == []


def test_registered():
    assert METRICS.get('KNNMetric') is mmmokd.evaluation.KNNMetric
    with pytest.raises(ValueError, match=r'at least 1, but got \(0,\)'):
        KNNMetric(topk=(0,))
