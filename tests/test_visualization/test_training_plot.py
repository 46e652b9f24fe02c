# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import json
import time

import cv2
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mokd_testing import short_log
from torch import nn
from torch.utils.data import Dataset

import mmmokd.engine  # noqa: F401
from mmmokd.visualization import plot_training, read_scalars
from mmmokd.visualization.training_plot import _draw_curves

ITERS = 7  # an epoch's; of them the third and the sixth are logged
LR = 0.01


class Ones(Dataset):
    metainfo = dict()

    def __len__(self):
        return ITERS

    def __getitem__(self, index):
        return dict(inputs=torch.ones(1))


class OneWeight(BaseModel):
    """Its weight falls by ``LR`` in each step, from 1."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return {'cnn.loss_sm': self.weight} if mode == 'loss' else [self.weight]


class Weight(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(data_samples[0].item())

    def compute_metrics(self, results):
        return {'cnn.teacher/knn_top1': results[0]}


class Spoil(Hook):
    """In the third epoch the weight is wrong, and then the run ends before its time."""

    def before_train_epoch(self, runner):
        if runner.epoch == 2:
            runner.model.weight.data.fill_(99)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 2 * ITERS + 4:
            raise KeyboardInterrupt


def start(folder, *hooks, **kwargs):
    loader = dict(dataset=Ones(), batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False))
    default_hooks = dict(
        initial_val=dict(type='mmmokd.InitialValHook'),
        logger=dict(type='LoggerHook', interval=3),
        checkpoint=dict(type='CheckpointHook', interval=1),
    )
    with short_log():
        runner = Runner(
            model=OneWeight(),
            work_dir=str(folder),
            experiment_name=f'{folder.name}{time.time()}',
            train_dataloader=loader,
            train_cfg=dict(by_epoch=True, max_epochs=4, val_interval=2),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=LR)),
            val_dataloader=loader,
            val_cfg=dict(),
            val_evaluator=dict(type=Weight),
            default_hooks=default_hooks,
            custom_hooks=list(hooks),
            log_processor=dict(window_size=1),
            **kwargs,
        )
    runner.train()


@pytest.fixture(scope='module')
def interrupted_run(tmp_path_factory):
    """Work directory of a run that was started twice."""
    folder = tmp_path_factory.mktemp('run')
    with pytest.raises(KeyboardInterrupt):
        start(folder, Spoil())
    time.sleep(1.1)  # the folder of a start is named by the second
    start(folder, load_from=str(folder / 'epoch_2.pth'), resume=True)
    return folder


def test_two_starts_make_one_curve(interrupted_run):
    assert len(list(interrupted_run.glob('*/vis_data/scalars.json'))) == 2
    scalars = read_scalars(interrupted_run)
    logged = [epoch * ITERS + i for epoch in range(4) for i in (3, 6)]
    epochs, values = zip(*scalars.train['cnn.loss_sm'], strict=True)
    assert epochs == pytest.approx([i / ITERS for i in logged])
    # The loss is taken before the step; what the first start wrote in epoch 3 (99) is gone.
    assert values == pytest.approx([1 - LR * (i - 1) for i in logged], abs=1e-5)
    epochs, values = zip(*scalars.val['cnn.teacher/knn_top1'], strict=True)
    assert epochs == (0, 2, 4)
    assert values == pytest.approx([1 - LR * ITERS * epoch for epoch in epochs], abs=1e-5)
    assert not {'epoch', 'iter', 'step', 'time', 'data_time'} & {*scalars.train, *scalars.val}
    assert 'lr' in scalars.train and 'lr' not in scalars.val
    lines = [json.loads(x) for f in interrupted_run.glob('*/*/scalars.json') for x in f.open()]
    times = [line['time'] for line in lines if 'iter' in line]
    assert len(times) > 8 and scalars.epoch_seconds == pytest.approx(ITERS * min(times))


def write(folder, *entries):
    file = folder / '20260101_000000' / 'vis_data' / 'scalars.json'
    file.parent.mkdir(parents=True)
    file.write_text('\n'.join(map(json.dumps, entries)) + '\n')
    return folder


def test_run_of_one_epoch_and_run_without_training(tmp_path):
    one = write(tmp_path / 'one', dict(epoch=1, iter=10, step=10, loss=2.0))
    assert read_scalars(one).train == {'loss': [(1.0, 2.0)]}
    none = write(tmp_path / 'none', {'a/knn': 5.0, 'step': 0})
    assert read_scalars(none) == ({}, {'a/knn': [(0, 5.0)]}, None)


def test_no_log_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f'scalars.json in {tmp_path}'):
        read_scalars(tmp_path)


def test_plot_shows_the_views_in_their_colors_and_sizes(tmp_path, interrupted_run):
    scalars = read_scalars(interrupted_run)
    large, small = (10, 200, 30), (210, 20, 120)
    views = [
        [np.full((28, 28, 3), large, np.uint8), np.full((14, 14, 3), small, np.uint8)]
        for _ in range(2)
    ]
    path = tmp_path / 'new' / 'plot.png'
    plot_training(
        path,
        losses=scalars.train,
        metrics={'k-NN top-1, %': scalars.val, 'k-NN top-1 of the map, %': scalars.val},
        costs=dict.fromkeys(scalars.val, 3.0),
        cost_label='seconds',
        baselines={'raw pixels': 0.9},
        views=views,
    )
    assert path.read_bytes().startswith(b'\x89PNG')
    image = cv2.imread(str(path))
    assert image.shape[0] > 500 and image.shape[1] > 800
    areas = [int((image[..., ::-1] == color).all(axis=2).sum()) for color in (large, small)]
    assert areas[1] > 1000
    assert areas[0] / areas[1] == pytest.approx(4, rel=0.1)


def test_plot_without_curves(tmp_path):
    views = [[np.zeros((8, 8, 3), np.uint8)]]
    plot_training(tmp_path / 'a.png', {}, {'metric': {}}, {}, 'seconds', {}, views)
    assert (tmp_path / 'a.png').stat().st_size > 1000


def test_curves_of_a_model_have_its_color_and_are_stretched_by_their_costs():
    axis = Figure().subplots()
    points = [(0, 50.0), (2, 60.0)]
    names = ('a b alone', 'c alone', 'a b together', 'c together')
    costs = dict(zip(names, (1, 2, 3, 4), strict=True))
    _draw_curves(axis, dict.fromkeys(names, points), costs, {})
    lines = {line.get_label(): line for line in axis.get_lines()}
    assert {name: [*line.get_xdata()] for name, line in lines.items()} == {
        name: [0, 2 * cost] for name, cost in costs.items()
    }
    styles = [(line.get_color(), line.get_linestyle()) for line in lines.values()]
    assert styles == [('C0', '--'), ('C1', '--'), ('C0', '-'), ('C1', '-')]
