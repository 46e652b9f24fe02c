# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pytest
import quickstart_report
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS
from quickstart_report import collect, collect_probes, collect_seconds, raw_pixel_knn
from quickstart_runs import PROBE, RUNS
from quickstart_tables import ACCURACIES, SIGNALS, metric_table

from mmmokd.utils.errors import RunStoppedError
from mmmokd.visualization import RunScalars


@pytest.mark.parametrize('metric', [*ACCURACIES, *SIGNALS])
def test_metrics_of_all_branches_in_all_runs(metric):
    points = {'cnn': [(0, 50.0), (1, 51.0)], 'vit': [(0, 40.0), (1, 42.5)]}
    end = {**ACCURACIES, **SIGNALS}[metric]
    named = {f'{branch}.{end}': values for branch, values in points.items()}
    logged = RunScalars({}, named) if metric in ACCURACIES else RunScalars(named, {})
    curves = collect(dict.fromkeys(('CNN alone', 'ViT alone', 'together'), logged), metric)
    assert list(curves) == ['CNN alone', 'ViT alone', 'CNN together', 'ViT together']
    assert curves['ViT together'] == points['vit'] and curves['CNN alone'] == points['cnn']
    lines = metric_table(metric, curves, raw=None).splitlines()
    assert (
        lines[0].count('|') == 5 and lines[-1].split() == '| ViT | 40.00 | 42.50 | 42.50 |'.split()
    )
    with pytest.raises(RunStoppedError, match=f'the run "CNN alone" logged no {metric} of CNN'):
        collect({'CNN alone': RunScalars({}, {})}, metric)


def test_probes_and_seconds_of_all_runs(tmp_path):
    for i, folder in enumerate(RUNS.values()):
        found = {f'{b}.teacher': dict(linear_top1=10.0 * i + len(b)) for b in folder.split('-')}
        (tmp_path / folder / PROBE).parent.mkdir(parents=True)
        (tmp_path / folder / PROBE).write_text(json.dumps(dict(results=found)))
    assert collect_probes(tmp_path) == {
        'CNN alone': 3.0, 'ViT alone': 13.0, 'CNN together': 23.0, 'ViT together': 23.0
    }  # fmt: skip
    scalars = {run: RunScalars({}, {}, 1.0004 * len(run)) for run in RUNS}
    assert collect_seconds(scalars) == {'CNN alone': 9.004, 'ViT alone': 9.004, 'together': 8.003}
    with pytest.raises(RunStoppedError, match='the run "together" logged no time'):
        collect_seconds({'CNN alone': RunScalars({}, {}, 1.0), 'together': RunScalars({}, {})})


@DATASETS.register_module()
class ColoredImages(BaseDataset):
    """Images around the color of their class."""

    def __init__(self, count, side, noise, seed, pipeline=()):
        rng = np.random.default_rng(seed)
        self.labels = rng.integers(0, 3, count)
        colors = np.array([[150, 90, 90], [90, 150, 90], [90, 90, 150]])
        noise = rng.normal(0, noise, (count, side, side, 3))
        self.images = (colors[self.labels][:, None, None] + noise).clip(0, 255).astype(np.uint8)
        super().__init__(pipeline=list(pipeline))

    def load_data_list(self):
        pairs = zip(self.images, self.labels, strict=True)
        return [dict(img=image, gt_label=int(label)) for image, label in pairs]


@pytest.mark.parametrize(('side', 'size', 'noise'), [(4, 4, 80), (6, 3, 140)])
def test_raw_pixel_knn_is_the_plain_formula(monkeypatch, side, size, noise):
    bank, queries = dict(count=60, seed=1), dict(count=40, seed=2)
    bank, queries = (
        dict(type='ColoredImages', side=side, noise=noise, **kwargs) for kwargs in (bank, queries)
    )
    cfg = dict(val_dataloader=dict(dataset=queries), default_scope='mmengine')
    cfg = Config(dict(cfg, val_cfg=dict(bank_dataloader=dict(dataset=bank))))
    monkeypatch.setattr(quickstart_report, 'RAW_SIZE', size)
    accuracy = raw_pixel_knn(cfg, k=7)
    bank, queries = DATASETS.build(bank), DATASETS.build(queries)

    def unit(dataset):
        images = dataset.images
        if side != size:  # area interpolation by a whole factor is the mean
            step = side // size
            images = images.reshape(-1, size, step, size, step, 3).mean(axis=(2, 4))
            images = np.rint(images)
        rows = images.reshape(len(images), -1).astype(np.float64)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    similarity = unit(queries) @ unit(bank).T
    hits = 0
    for row, label in zip(similarity, queries.labels, strict=True):
        votes = np.zeros(3)
        for index in np.argsort(-row)[:7]:
            votes[bank.labels[index]] += np.exp(row[index] / 0.07)
        hits += votes.argmax() == label
    assert accuracy == pytest.approx(100 * hits / 40, abs=1e-6 if side == size else 2.6)
    assert 50 < accuracy < 100
