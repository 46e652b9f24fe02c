# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import json
import math
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset, default_collate
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmpretrain.models import SelfSupDataPreprocessor
from mmpretrain.structures import DataSample
from mokd_testing import short_log
from torch import nn
from torch.utils.data import Dataset, Subset

import mmmokd.evaluation
from mmmokd.evaluation import FeatureMetric, KNNMetric, weighted_knn
from mmmokd.evaluation.loops import complete_bank
from mmmokd.evaluation.metrics import FeatureSet
from mmmokd.registry import METRICS


class Angles(Dataset):
    """Four pixels that say how far round a circle the image is; four classes, one a quarter."""

    metainfo = dict(classes=('a', 'b', 'c', 'd'))

    def __init__(self, size, seed, labelled=True):
        self.angles = torch.rand(size, generator=torch.Generator().manual_seed(seed)) * 2 * math.pi
        self.labelled = labelled

    def __len__(self):
        return len(self.angles)

    def from_info(self, info):
        return self[info['number']]

    def __getitem__(self, index):
        angle = self.angles[index]
        pixels = torch.stack((angle.cos(), angle.sin())).repeat(3, 2, 1) * 100 + 100
        sample = DataSample(metainfo=dict(img_path=f'{index}.jpg'))
        if self.labelled:
            sample.set_gt_label(int(angle / (math.pi / 2)))
        return dict(inputs=pixels.to(torch.uint8), data_samples=sample)


class ListedAngles(BaseDataset):
    """Images of :class:`Angles` as a dataset of mmengine, by their numbers."""

    def __init__(self, size, seed, **kwargs):
        self.images = Angles(size, seed)
        super().__init__(metainfo=Angles.metainfo, pipeline=[self.images.from_info], **kwargs)

    def load_data_list(self):
        labels = (self.images.angles / (math.pi / 2)).int().tolist()
        return [dict(number=i, gt_label=label) for i, label in enumerate(labels)]


class TwoBranches(BaseModel):
    """Teacher a sees the angle from the first epoch on, b from the second; students never."""

    def __init__(self):
        mean = [100.0] * 3
        super().__init__(data_preprocessor=SelfSupDataPreprocessor(mean=mean, std=mean))
        self.weight = nn.Parameter(torch.zeros(()))
        self.register_buffer('steps', torch.zeros(()))

    def forward(self, inputs, data_samples=None, mode='loss'):
        self.steps += 1
        return dict(loss=(self.weight - 1).square() + 0 * inputs.sum())

    def extract_feat(self, inputs, network='teacher'):
        blind = torch.ones_like(inputs[:, 0, 0])
        seen = inputs[:, 0, 0]
        if network == 'student':
            return dict(a=blind, b=blind)
        return dict(a=seen, b=seen if self.steps >= 4 else blind)


class Recorder(Hook):
    """Names of the evaluation hooks that are called, in order, and the last metrics."""

    priority = 'LOWEST'

    def __init__(self):
        self.calls = []

    def _record(self, name, metrics=None):
        self.calls.append(name)
        self.metrics = metrics or getattr(self, 'metrics', None)


for name in ('before_{}', 'before_{}_epoch', 'after_{}_epoch', 'after_{}'):
    for mode in ('val', 'test'):
        full = name.format(mode)

        def method(self, runner, metrics=None, full=full):
            self._record(full, metrics)

        setattr(Recorder, full, method)
for mode in ('val', 'test'):

    def before_iter(self, runner, batch_idx, data_batch=None, mode=mode):
        self._record(f'before_{mode}_iter')

    def after_iter(self, runner, batch_idx, data_batch=None, outputs=None, mode=mode):
        assert len(outputs) == len(data_batch['inputs'])
        self._record(f'after_{mode}_iter')

    setattr(Recorder, f'before_{mode}_iter', before_iter)
    setattr(Recorder, f'after_{mode}_iter', after_iter)


def loader(dataset, shuffle=False):
    return dict(
        dataset=dataset,
        batch_size=16,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=shuffle),
        collate_fn=dict(type='default_collate'),
    )


def build_runner(tmp_path, mode='val', queries=None, bank=None, loop=None, metric=None, **kwargs):
    """A runner that evaluates; for 'val' it trains for three epochs of two iterations."""
    queries, bank = queries or Angles(40, seed=1), bank or Angles(100, seed=2)
    cfg = dict(bank_dataloader=loader(bank), type=f'mmmokd.Feature{mode.title()}Loop')
    cfg.update(loop or {})
    settings = {
        f'{mode}_dataloader': loader(queries),
        f'{mode}_cfg': cfg,
        f'{mode}_evaluator': metric or dict(type='mmmokd.KNNMetric', k=5),
    }
    if mode == 'val':
        settings.update(
            train_dataloader=loader(Angles(32, seed=3), shuffle=True),
            train_cfg=dict(by_epoch=True, max_epochs=3, val_interval=1),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        )
    settings.update(kwargs)
    with short_log():
        runner = Runner(
            model=TwoBranches(),
            work_dir=str(tmp_path),
            default_scope='mmpretrain',
            experiment_name=tmp_path.name,
            custom_hooks=[Recorder()],
            cfg=Config(dict(default_scope='mmpretrain')),
            **settings,
        )
    return runner, runner.hooks[-1]


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


def plain_accuracy(bank, queries, k):
    """The metric from the datasets alone, without loop, model or dataloader."""

    def unpack(dataset):
        batch = default_collate([dataset[i] for i in range(len(dataset))])
        labels = torch.stack([sample.gt_label[0] for sample in batch['data_samples']])
        return (batch['inputs'][:, 0, 0].float() - 100) / 100, labels

    (keys, key_labels), (points, point_labels) = unpack(bank), unpack(queries)
    predictions = weighted_knn(keys, key_labels, points, k=k)[k][:, 0]
    return 100 * (predictions == point_labels).double().mean().item()


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
    ('change', 'error', 'message'),
    [
        (dict(bank=Angles(4, seed=2)), ValueError, 'k=5 .* the bank has 4'),
        (dict(queries=Angles(4, seed=2, labelled=False)), ValueError, '0.jpg of Angles has no gt'),
        (dict(bank=Angles(9, seed=2, labelled=False)), ValueError, '0.jpg of Angles has no gt'),
        (
            dict(metric=[dict(type='Accuracy')]),
            TypeError,
            'such as mmmokd.KNNMetric, but got Accuracy',
        ),
        (dict(loop=dict(networks=())), ValueError, 'at least one network'),
        (dict(loop=dict(bank_dataloader=None)), ValueError, 'LabelledShare takes a dataset of mm'),
        (dict(loop=dict(bank_dataloader=None, bank_share=1)), ValueError, 'bank_share must be'),
        (dict(loop=dict(bank_dataloader=dict(batch_size=2))), ValueError, 'needs a dataset'),
        (dict(val_dataloader=NOT_COLLATED), ValueError, 'gave a list: .*default_collate'),
        (dict(loop=dict(bank_dataloader=NOT_COLLATED)), ValueError, 'gave a list: .*default_co'),
        (dict(loop=dict(maps=True)), ValueError, 'maps of MOKD; TwoBranches gives none'),
    ],
)
def test_errors_come_before_training(tmp_path, change, error, message):
    runner, recorder = build_runner(tmp_path, **change)
    with pytest.raises(error, match=message):
        runner.train()
    assert recorder.calls == [] and runner.iter == 0


def numbers(loader):
    return [int(sample.img_path[:-4]) for batch in loader for sample in batch['data_samples']]


def test_one_labelled_set_is_parted_by_class(tmp_path):
    alone = dict(type=ListedAngles, size=100, seed=1)
    runner, recorder = build_runner(
        tmp_path, mode='test', queries=alone, loop=dict(bank_dataloader=None)
    )
    metrics = runner.test()
    bank, queries = (
        numbers(loader) for loader in (runner.test_loop.bank_dataloader, runner.test_dataloader)
    )
    assert sorted(bank + queries) == list(range(100))
    labels = Angles(100, seed=1).angles // (math.pi / 2)
    for label in range(4):
        total, drawn = ((labels[numbers] == label).sum() for numbers in (range(100), bank))
        assert drawn == int(0.8 * total + 0.5)
    subsets = [Subset(Angles(100, seed=1), part) for part in (bank, queries)]
    assert metrics['a.teacher/knn_top1'] == pytest.approx(plain_accuracy(*subsets, k=5))

    again = build_runner(
        tmp_path, mode='test', queries=alone, loop=dict(bank_dataloader=None, bank_share=0.3)
    )[0]
    smaller = numbers(again.test_loop.bank_dataloader)
    assert set(smaller) < set(bank) and 28 <= len(smaller) <= 32


def test_the_bank_takes_from_the_queries_what_it_leaves_out(tmp_path):
    queries = dict(type=ListedAngles, size=100, seed=1)
    leaves_out = dict(bank_dataloader=dict(dataset=dict(size=80), batch_size=10))
    runner, _ = build_runner(tmp_path, mode='test', queries=queries, loop=leaves_out)
    bank = runner.test_loop.bank_dataloader
    assert bank.batch_size == 10 and runner.test_dataloader.batch_size == 16
    assert numbers(bank) == list(range(80)) and len(numbers(runner.test_dataloader)) == 100
    assert runner.test()['a.teacher/knn_top1'] > 90


def test_workers_of_the_bank_do_not_stay():
    queries = dict(loader(None), num_workers=2, persistent_workers=True)
    bank = complete_bank(dict(dataset=dict(type='A'), num_workers=0), queries)
    assert bank == dict(loader(dict(type='A')), num_workers=0)


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
