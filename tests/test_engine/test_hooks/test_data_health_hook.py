# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmpretrain.datasets import KFoldDataset
from mmpretrain.datasets.transforms import MultiView, PackInputs
from mokd_testing import short_log
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Subset

import mmmokd.engine.hooks.data_health_hook as data_health_hook
from mmmokd.datasets import (
    BadImageError,
    ImageFolder,
    LoadImage,
    MultiCrop,
    iter_datasets,
    iter_transforms,
)
from mmmokd.engine.hooks.data_health_hook import DataHealthHook
from mmmokd.engine.schedulers import WarmupCosineParamScheduler
from mmmokd.registry import HOOKS

CROPS = dict(type='mmmokd.MultiCrop', groups=[dict(num=2, size=4, scale=(0.3, 1.0))])
PIPELINE = [dict(type='mmmokd.LoadImage'), CROPS, dict(type='mmpretrain.PackInputs')]


def make_folder(root, num_good, num_bad=0):
    root.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for index in range(num_good):
        array = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(array).save(root / f'good{index:03}.png')
    for index in range(num_bad):
        (root / f'bad{index:03}.png').write_bytes(b'broken')
    return root


class OneWeight(BaseModel):
    """The least that trains."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, inputs, data_samples=None, mode='loss'):
        return dict(loss=self.weight * inputs[0].float().mean())


class Watch(Hook):
    """Keeps the views and the paths of every epoch."""

    def __init__(self):
        self.epochs = []

    def before_train_epoch(self, runner):
        self.epochs.append([])

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        for index, sample in enumerate(data_batch['data_samples']):
            view = data_batch['inputs'][0][index].numpy().tobytes()
            self.epochs[-1].append((sample.img_path, view))


def make_runner(tmp_path, dataset, watch=None, train_cfg=None, max_bad_share=0.1, **loader):
    loader = {'batch_size': 4, 'num_workers': 2, **loader}
    with short_log():
        return Runner(
            model=OneWeight(),
            work_dir=str(tmp_path / 'work_dir'),
            train_dataloader=dict(
                dataset=dataset,
                sampler=dict(type='DefaultSampler', shuffle=True),
                collate_fn=dict(type='default_collate'),
                **loader,
            ),
            train_cfg=train_cfg or dict(by_epoch=True, max_epochs=2),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            default_hooks=dict(
                data_health=dict(type='mmmokd.DataHealthHook', max_bad_share=max_bad_share),
                checkpoint=None,
            ),
            custom_hooks=[watch] if watch else None,
            randomness=dict(seed=0),
            default_scope='mmpretrain',
            experiment_name=f'{tmp_path.name}_{np.random.default_rng().integers(2**62)}',
        )


def train(runner):
    runner.train()
    # Left to the garbage collector, each living worker is waited for five seconds.
    forever = getattr(runner.train_loop, 'dataloader_iterator', None)
    for iterator in (runner.train_dataloader._iterator, getattr(forever, '_iterator', None)):
        if iterator is not None:
            iterator._shutdown_workers()


def log_of(tmp_path):
    logs = sorted((tmp_path / 'work_dir').rglob('*.log'))
    return ''.join(path.read_text() for path in logs).splitlines()


def folder_cfg(root):
    return dict(type='mmmokd.ImageFolder', data_root=str(root), pipeline=PIPELINE)


# ----------------------------------------------------------------------------------- whole runs
@pytest.mark.parametrize('persistent', [False, True])
def test_a_run_with_unreadable_images(tmp_path, persistent):
    root = make_folder(tmp_path / 'images', 28, 4)
    watch = Watch()
    runner = make_runner(
        tmp_path, folder_cfg(root), watch, max_bad_share=0.2, persistent_workers=persistent
    )
    train(runner)

    log = log_of(tmp_path)
    for index in range(4):
        warnings = [line for line in log if 'Unreadable' in line and f'bad{index:03}' in line]
        assert len(warnings) == 1
    counts = [line for line in log if 'could not be read' in line]
    assert len(counts) == 2
    assert 'Epoch 1: 4 of 32 images (12.50%)' in counts[0] and 'Epoch 2: 4 of 32' in counts[1]
    assert f'{root}/bad000.png' in counts[0]
    assert runner.message_hub.get_scalar('train/bad_images').current() == 4

    views = [view for epoch in watch.epochs for _, view in epoch]
    assert [len(epoch) for epoch in watch.epochs] == [32, 32]
    assert not any('bad' in path for epoch in watch.epochs for path, _ in epoch)
    assert len(set(views)) == len(views)

    again = Watch()
    runner = make_runner(
        tmp_path, folder_cfg(root), again, max_bad_share=0.2, persistent_workers=persistent
    )
    train(runner)
    assert again.epochs == watch.epochs


def test_an_iteration_based_run(tmp_path, monkeypatch):
    monkeypatch.setattr('mmengine.runner.loops.time.sleep', lambda seconds: None)
    root = make_folder(tmp_path / 'images', 15, 1)
    watch = Watch()
    train_cfg = dict(by_epoch=False, max_iters=8)  # two passes
    train(make_runner(tmp_path, folder_cfg(root), watch, train_cfg))
    counts = [line for line in log_of(tmp_path) if 'could not be read' in line]
    assert len(counts) == 2
    assert 'Iteration 4: 1 of 16 images (6.25%)' in counts[0] and 'Iteration 8' in counts[1]
    views = [view for _, view in watch.epochs[0]]
    assert len(views) == 32
    assert len(set(views)) == 32


def test_too_many_unreadable_images_stop_the_run(tmp_path):
    root = make_folder(tmp_path / 'images', 28, 4)
    with pytest.raises(BadImageError, match=r'of 32 images \(.*max_bad_share'):
        make_runner(tmp_path, folder_cfg(root), max_bad_share=0.05, num_workers=0).train()


@pytest.mark.parametrize('drop_last', [False, True])
def test_fewer_images_than_a_batch(tmp_path, drop_last):
    root = make_folder(tmp_path / 'images', 3)
    runner = make_runner(tmp_path, folder_cfg(root), drop_last=drop_last)
    message = '3 images, .* 4 .batch size 4 x 1 processes.*batch_size of at most 3'
    with pytest.raises(ValueError, match=message):
        runner.train()
    assert runner.iter == 0


def test_two_ranks_need_two_batches(monkeypatch):
    loader = DataLoader(list(range(15)), batch_size=8)
    data_health_hook.check_enough_images(loader)
    monkeypatch.setattr(data_health_hook, 'get_world_size', lambda: 2)
    with pytest.raises(ValueError, match='15 images, .* 16 .*at most 7'):
        data_health_hook.check_enough_images(loader)


def test_a_sampler_that_draws_too_few():
    loader = DataLoader(list(range(15)), batch_size=8, sampler=[1, 2, 3], drop_last=True)
    with pytest.raises(ValueError, match='15 images, .* no batch of 8 .*sampler'):
        data_health_hook.check_enough_images(loader)


# ----------------------------------------------------------------------------------- wrappers
class Listed(BaseDataset):
    """mmengine's own dataset, of paths that do not exist."""

    def __init__(self, length, **kwargs):
        self.length = length
        super().__init__(**kwargs)

    def load_data_list(self):
        return [dict(img_path=f'gone/{index}.png') for index in range(self.length)]


def fake_runner(dataset, epoch=0):
    loader = DataLoader(dataset, batch_size=1)
    messages = []
    return SimpleNamespace(
        train_dataloader=loader,
        val_dataloader=loader,
        test_dataloader=loader,
        train_loop=None,
        epoch=epoch,
        scalars={},
        messages=messages,
        logger=SimpleNamespace(log=lambda level, message: messages.append(message)),
        message_hub=SimpleNamespace(update_scalar=lambda key, value: messages.append((key, value))),
    )


def make_pipeline():
    return [LoadImage(), MultiCrop(CROPS['groups'])]


def wrap(kind, dataset):
    if kind == 'subset':
        return Subset(dataset, [0, 1])
    if kind == 'k-fold':
        cfg = dict(type=Listed, length=6, pipeline=make_pipeline())
        return KFoldDataset(copy.deepcopy(cfg), num_splits=2)
    return dict(plain=lambda d: d, repeat=lambda d: RepeatDataset(d, 2))[kind](dataset)


@pytest.mark.parametrize('kind', ['plain', 'repeat', 'subset', 'k-fold'])
def test_transforms_are_found_in_wrappers(kind):
    dataset = wrap(kind, Listed(3, pipeline=make_pipeline()))
    runner = fake_runner(dataset, epoch=4)
    hook = HOOKS.build(dict(type='mmmokd.DataHealthHook'))
    hook.before_train(runner)
    hook.before_train_epoch(runner)
    transforms = [t for d in iter_datasets(dataset) for t in iter_transforms(d)]
    (loader,) = [t for t in transforms if isinstance(t, LoadImage)]
    (crop,) = [t for t in transforms if isinstance(t, MultiCrop)]
    assert len(loader.bad_flags) == 3
    assert crop.generator._epoch_and_stream.tolist() == [4, 0]


def test_datasets_of_a_concatenation_are_counted_and_drawn_apart():
    datasets = [Listed(length, pipeline=make_pipeline()) for length in (30, 20)]
    runner = fake_runner(ConcatDataset(datasets), epoch=1)
    hook = DataHealthHook(max_bad_share=0.2)
    hook.before_train(runner)
    hook.before_train_epoch(runner)
    loaders, crops = zip(*[dataset.pipeline.transforms for dataset in datasets], strict=True)
    assert [len(loader.bad_flags) for loader in loaders] == [30, 20]
    streams = [crop.generator._epoch_and_stream.tolist() for crop in crops]
    assert streams == [[1, 0], [1, 1]]

    for loader, bad in zip(loaders, ([3, 4], [0, 7]), strict=True):
        loader.bad_flags[bad] = 1
    hook.after_train_epoch(runner)
    scalar, line = runner.messages
    assert scalar == ('train/bad_images', 4)
    assert line.startswith('Epoch 2: 4 of 50 images (8.00%) could not be read')
    assert line.endswith('gone/3.png, gone/4.png, gone/0.png, ...')


def test_nested_transforms_are_found_once():
    load, crop = LoadImage(), MultiCrop(CROPS['groups'])
    nested = MultiView(transforms=[[crop, PackInputs()]], num_views=[3])
    found = list(iter_transforms(SimpleNamespace(pipeline=[load, nested])))
    assert found.count(load) == found.count(crop) == 1
    assert list(iter_transforms(SimpleNamespace())) == []


# ----------------------------------------------------------------------------------- ranks
def test_what_other_processes_found_counts(monkeypatch):
    dataset = Listed(20, pipeline=[LoadImage()])
    loader = dataset.pipeline.transforms[0]
    runner = fake_runner(dataset)
    hook = DataHealthHook(max_bad_share=0.1)
    hook.before_train(runner)
    loader.bad_flags[2] = 1
    warnings = []
    monkeypatch.setattr(LoadImage, 'warn', warnings.append)

    def other_rank_found(*indices):
        def all_reduce(flags, op):
            assert op == 'max'
            flags[list(indices)] = 1

        monkeypatch.setattr(data_health_hook, 'all_reduce', all_reduce)

    other_rank_found(2, 5)
    hook.after_train_epoch(runner)
    assert loader.bad_flags.nonzero().flatten().tolist() == [2, 5]
    assert runner.messages[0] == ('train/bad_images', 2)
    assert warnings == ['gone/5.png (found by another process)']

    other_rank_found(7)
    with pytest.raises(BadImageError, match=r'3 of 20 images \(15.00%\)'):
        hook.after_train_epoch(runner)


# ----------------------------------------------------------------------------------- evaluation
@pytest.mark.parametrize('stage', ['before_val', 'before_test'])
def test_evaluation_does_not_skip(stage):
    for test_mode in (True, False):
        dataset = Listed(3, pipeline=[LoadImage()], test_mode=test_mode, max_refetch=2)
        getattr(DataHealthHook(), stage)(fake_runner(dataset))
        error, named = (BadImageError, 'gone/1') if test_mode else (Exception, 'max_refetch|valid')
        with pytest.raises(error, match=named):
            dataset[1]


def test_no_images_no_report(tmp_path):
    runner = fake_runner(ImageFolder(str(make_folder(tmp_path / 'a', 2))))
    hook = DataHealthHook()
    hook.before_train(runner)
    hook.after_train_epoch(runner)
    assert runner.messages == []


@pytest.mark.parametrize('share', [-0.1, 1.1])
def test_wrong_share_is_named(share):
    with pytest.raises(ValueError, match='max_bad_share'):
        DataHealthHook(max_bad_share=share)


def test_schedules_over_no_iteration_name_the_cause():
    """The Runner builds schedules before any hook is called."""
    with pytest.raises(ValueError, match='train_dataloader makes no batch: with drop_last=True'):
        WarmupCosineParamScheduler.build_iter_from_epoch(
            None, epoch_length=0, param_name='lr', final=0.0, end=3
        )
