# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""A model of two branches, labeled images of which one feature tells the class, and their runs."""

import math
from functools import partial

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
from torch.utils.data import Dataset

from mmmokd.evaluation import weighted_knn
from mmmokd.structures import BackboneFeatures


class Angles(Dataset):
    """Four pixels that say how far round a circle the image is; four classes, one a quarter."""

    metainfo = dict(classes=('a', 'b', 'c', 'd'))

    def __init__(self, size, seed, labeled=True):
        self.angles = torch.rand(size, generator=torch.Generator().manual_seed(seed)) * 2 * math.pi
        self.labeled = labeled

    def __len__(self):
        return len(self.angles)

    def from_info(self, info):
        return self[info['number']]

    def __getitem__(self, index):
        angle = self.angles[index]
        pixels = torch.stack((angle.cos(), angle.sin())).repeat(3, 2, 1) * 100 + 100
        sample = DataSample(metainfo=dict(img_path=f'{index}.jpg'))
        if self.labeled:
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


class NamedAngles(ListedAngles):
    """The same, each with a path: two datasets of one seed have the same images."""

    def load_data_list(self):
        return [dict(info, img_path=f'/{info["number"]}.png') for info in super().load_data_list()]


class FakeBranch(nn.Module):
    """A branch of a student and a teacher whose pooled features are a function's."""

    backbone = None

    def __init__(self, function, network=None):
        super().__init__()
        self.function, self.name = function, network

    def network(self, name):
        return FakeBranch(self.function, name)

    def extract(self, images):
        pooled = self.function(images, self.name)
        return BackboneFeatures(pooled, pooled[:, None], (1, 1))


class TwoBranches(BaseModel):
    """Teacher a sees the angle from the first epoch on, b from the second; students never."""

    def __init__(self):
        mean = [100.0] * 3
        super().__init__(data_preprocessor=SelfSupDataPreprocessor(mean=mean, std=mean))
        self.weight = nn.Parameter(torch.zeros(()))
        self.register_buffer('steps', torch.zeros(()))
        see_late = partial(self.see, steps=4)
        self.branches = nn.ModuleDict(dict(a=FakeBranch(self.see), b=FakeBranch(see_late)))

    def forward(self, inputs, data_samples=None, mode='loss'):
        self.steps += 1
        return dict(loss=(self.weight - 1).square() + 0 * inputs.sum())

    def see(self, inputs, network, steps=0):
        seen = inputs[:, 0, 0]
        return seen if network == 'teacher' and self.steps >= steps else torch.ones_like(seen)


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


def plain_accuracy(bank, queries, k):
    """The metric from the datasets alone, without loop, model or dataloader."""

    def unpack(dataset):
        batch = default_collate([dataset[i] for i in range(len(dataset))])
        labels = torch.stack([sample.gt_label[0] for sample in batch['data_samples']])
        return (batch['inputs'][:, 0, 0].float() - 100) / 100, labels

    (keys, key_labels), (points, point_labels) = unpack(bank), unpack(queries)
    predictions = weighted_knn(keys, key_labels, points, k=k)[k][:, 0]
    return 100 * (predictions == point_labels).double().mean().item()
