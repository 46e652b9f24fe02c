# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The switch of a config: views are made on the device."""

from copy import deepcopy
from pathlib import Path

import pytest
from mmengine.config import Config

from mmmokd.engine.runners.device_views import move_views_to_device
from mmmokd.utils.errors import ConfigError

CONFIGS = Path(__file__).parents[3] / 'configs' / 'mokd'
TYPE = 'mmmokd.MultiCropDataPreprocessor'


def config(name, **preprocessor):
    (path,) = CONFIGS.rglob(name)
    cfg = Config.fromfile(path)
    cfg.data_preprocessor.update(type=TYPE, **preprocessor)
    return cfg


def test_canvas_takes_the_place_of_the_crops():
    cfg = config('mokd_resnet50_vit-small-p16_16xb16*')
    load, crop, pack = cfg.train_dataloader.dataset.pipeline
    (notice,) = move_views_to_device(cfg)
    assert '512x512' in notice
    assert cfg.train_dataloader.dataset.pipeline == [
        load, dict(type='mmmokd.FitCanvas', size=512), pack,
    ]  # fmt: skip
    assert cfg.data_preprocessor.groups == crop.groups and cfg.train_dataloader.pin_memory
    assert cfg.data_preprocessor.mean == [123.675, 116.28, 103.53]
    adapted = cfg.to_dict()
    assert move_views_to_device(cfg) == [] and cfg.to_dict() == adapted


@pytest.mark.parametrize('name', ['*vit-tiny-p4*amp-coslr-200e_cifar10.py', 'mokd-semi_*'])
def test_images_are_kept(name):
    path = sorted(CONFIGS.rglob(name))[0].name
    cfg = config(path, keep_images=True)
    before = deepcopy(cfg)
    move_views_to_device(cfg)
    loader, inner = cfg.train_dataloader, cfg.train_dataloader.dataset.dataset
    assert loader.dataset.type == 'mmmokd.IndexedImages' and loader.num_workers == 0
    assert inner.type == before.train_dataloader.dataset.type
    innermost = inner.get('dataset', inner)
    assert [step.type for step in innermost.pipeline] == ['mmmokd.LoadImage']
    assert cfg.val_dataloader == before.val_dataloader


def test_images_are_kept_inside_of_bags():
    """They ask for further images by their numbers."""
    cfg = config('mokd_resnet18_vit-tiny-p4_1xb256-amp-coslr-200e_cifar10.py', keep_images=True)
    plain = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(type='mmmokd.NeighborBags', neighbors='x', dataset=plain)
    move_views_to_device(cfg)
    bags = cfg.train_dataloader.dataset
    kinds = [bags.type, bags.dataset.type, bags.dataset.dataset.type]
    assert kinds == ['mmmokd.NeighborBags', 'mmmokd.IndexedImages', 'CIFAR10']
    assert cfg.train_dataloader.num_workers == 0


def test_what_is_left_as_it_is():
    for change in (dict(data_preprocessor=dict(type='SelfSupDataPreprocessor')), dict(groups=[1])):
        cfg = config('mokd_resnet18_vit-tiny-p16_1xb32-coslr-100e_folder.py')
        cfg.update(change) if 'groups' not in change else cfg.data_preprocessor.update(change)
        before = cfg.to_dict()
        assert move_views_to_device(cfg) == [] and cfg.to_dict() == before
    cfg = config('mokd_resnet18_vit-tiny-p16_1xb32-coslr-100e_folder.py')
    cfg.train_dataloader = None
    assert move_views_to_device(cfg) == []


def test_images_kept_by_another_preprocessor():
    cfg = config('mokd_resnet18_vit-tiny-p4_1xb256-amp-coslr-200e_cifar10.py', keep_images=True)
    cfg.data_preprocessor.type = 'SelfSupDataPreprocessor'
    with pytest.raises(
        ConfigError, match=f'is for data_preprocessor.type={TYPE}, but the type is Self'
    ):
        move_views_to_device(cfg)


@pytest.mark.parametrize(
    ('pipeline', 'message'),
    [
        ([dict(type='LoadImage'), dict(type='PackInputs')], 'which has none'),
        ([dict(type='mmmokd.MultiCrop'), dict(type='Invert'), dict(type='PackInputs')], 'Invert'),
        ([dict(type='mmmokd.MultiCrop')], r'but \[\] follow'),
    ],
)
def test_wrong_pipeline(pipeline, message):
    cfg = config('mokd_resnet18_vit-tiny-p16_1xb32-coslr-100e_folder.py')
    cfg.train_dataloader.dataset.pipeline = pipeline
    with pytest.raises(ConfigError, match=message):
        move_views_to_device(cfg)


def test_paper_groups_and_several_datasets():
    """MultiCrop without groups has the paper's; the datasets of a concatenation are to agree."""
    cfg = config('mokd_resnet18_vit-tiny-p16_1xb32-coslr-100e_folder.py')
    crop = dict(type='mmmokd.MultiCrop')
    dataset = dict(type='mmmokd.ImageFolder', pipeline=[crop, dict(type='PackInputs')])
    other = dict(dataset, pipeline=[dict(crop, groups=[dict(size=8)]), dict(type='PackInputs')])
    for second, expected in ((dataset, None), (other, 'several that differ')):
        both = dict(type='ConcatDataset', datasets=[dataset, second])
        cfg = Config(dict(model={}, data_preprocessor=dict(type=TYPE),
                          train_dataloader=dict(dataset=both)))  # fmt: skip
        if expected:
            with pytest.raises(ConfigError, match=expected):
                move_views_to_device(cfg)
            continue
        move_views_to_device(cfg)
        assert [group.size for group in cfg.data_preprocessor.groups] == [(224, 224)] * 2 + [
            (96, 96)
        ]
        for each in cfg.train_dataloader.dataset.datasets:
            assert [step.type for step in each.pipeline] == ['mmmokd.FitCanvas', 'PackInputs']
