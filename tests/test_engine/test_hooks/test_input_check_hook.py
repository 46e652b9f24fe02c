# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import logging
from types import SimpleNamespace

import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.model import ImgDataPreprocessor
from mokd_testing import branch_cfg, build_mokd, with_batch_norm
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from mmmokd.datasets import LoadImage, MultiCrop, NeighborBags
from mmmokd.engine.hooks import InputCheckHook, input_check_hook
from mmmokd.engine.hooks.input_check_hook import (
    check_channel_order,
    crop_sizes,
    one_image_batches,
    view_passes,
)


class Images(Dataset):
    def __init__(self, length, *pipeline):
        self.length, self.pipeline = length, list(pipeline)

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        raise AssertionError('no image is read')


class CenterCrop:
    crop_size = (48, 40)


def crop(*sides_and_nums):
    return MultiCrop([dict(size=s, num=n, scale=(0.5, 1.0)) for s, n in sides_and_nums])


def loader(length=9, batch_size=4, views=((32, 2), (4, 1)), sampler=DefaultSampler, **kwargs):
    dataset = Images(length, crop(*views))
    return DataLoader(dataset, batch_size, sampler=sampler(dataset), **kwargs)


def check(model, train, val=None):
    """Run the hook; what it said to the log."""
    said = []
    runner = SimpleNamespace(
        model=model.train(),
        train_dataloader=train,
        val_loop=val and SimpleNamespace(dataloader=DataLoader(Images(1, val))),
        logger=SimpleNamespace(log=lambda level, text: said.append((level, text))),
    )
    InputCheckHook().before_train(runner)
    return said


@pytest.mark.parametrize(
    ('of_loader', 'of_preprocessor', 'says'),
    [
        (True, False, None),
        (False, True, None),
        (False, False, 'sees BGR'),
        (True, True, 'round to'),
    ],
)
def test_channels_are_turned_round_once(of_loader, of_preprocessor, says):
    preprocessor = ImgDataPreprocessor(bgr_to_rgb=of_preprocessor)
    dataset = ConcatDataset([Images(1, LoadImage(to_rgb=of_loader))])
    if of_loader and of_preprocessor:
        with pytest.raises(ValueError, match=says):
            check_channel_order(dataset, preprocessor)
    else:
        notice = check_channel_order(dataset, preprocessor)
        assert notice is None if says is None else says in notice
    assert check_channel_order(Images(1), preprocessor) is None
    assert check_channel_order(dataset, None) is None


def test_views_of_a_training_set():
    dataset = Images(3, crop((32, 1), (32, 1), (24, 2), (16, 1), (24, 1)))
    assert view_passes(ConcatDataset([dataset, dataset]), 2) == [
        ((32, 32), 2),
        ((24, 24), 2),
        ((16, 16), 1),
        ((24, 24), 1),
    ]
    assert view_passes(dataset, 1)[:2] == [((32, 32), 1), ((32, 32), 1)]
    assert view_passes(dataset, 2, seen=(1, 5, 2, 9)) == [((32, 32), 1), ((24, 24), 2)]
    assert view_passes(Images(3), 2) == []
    assert view_passes(ConcatDataset([dataset, Images(1, crop((8, 2)))]), 2) == []
    assert crop_sizes(Images(1, CenterCrop())) == [(40, 48)]


@pytest.mark.parametrize(
    ('settings', 'found'),
    [
        (dict(length=9, batch_size=4), 'the last batch of an epoch'),
        (dict(length=9, batch_size=4, drop_last=True), None),
        (dict(length=10, batch_size=4), None),
        (dict(length=9, batch_size=4, sampler=InfiniteSampler), None),
        (dict(length=3, batch_size=1), 'every batch'),
        (dict(length=1, batch_size=4), 'the last batch of an epoch'),
    ],
)
def test_batches_of_one_image(settings, found):
    train = loader(**settings)
    assert one_image_batches(train) == found
    if settings.get('sampler') is None:
        sizes = [len(batch) for batch in train.batch_sampler]
        assert (1 in sizes) is (found is not None)


def test_last_batch_of_three_processes(monkeypatch):
    """Each has ceil(7 / 3) images by the sampler's rounding, and the last batch one of them."""
    monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda: (2, 3))
    assert one_image_batches(loader(length=7, batch_size=2)) == 'the last batch of an epoch'
    assert one_image_batches(loader(length=7, batch_size=3)) is None


def test_processes_that_would_wait_for_a_gradient(monkeypatch):
    model = build_mokd(('vit',))
    wrapped = SimpleNamespace(module=model, find_unused_parameters=False)
    wrapped.train = lambda: wrapped
    monkeypatch.setattr(input_check_hook, 'get_ori_model', lambda found: model)
    check(wrapped, loader(views=((32, 2), (8, 1))))
    model.branches.vit.student.backbone.unused = torch.nn.Linear(2, 2)
    check(model, loader(views=((32, 2), (8, 1))))
    with pytest.raises(ValueError, match=r'branch vit: .* \(unused.weight, unused.bias\)'):
        check(wrapped, loader(views=((32, 2), (8, 1))))
    wrapped.find_unused_parameters = True
    check(wrapped, loader(views=((32, 2), (8, 1))))


def test_small_batches_are_refused():
    model = build_mokd(dict(cnn=with_batch_norm()))
    with pytest.raises(
        ValueError,
        match=r'branch cnn: the last batch of an epoch has one image \(9 images, batch size 4, '
        r'1 process\), of whose views of 4x4 the batch norm backbone\.\S+ \(and \d+ more\) gets one '
        r'value per channel, .* Set train_dataloader.drop_last=True, another train_dataloader',
    ):
        check(model, loader())
    with pytest.raises(
        ValueError, match='every batch has one image .* Set train_dataloader.batch_size to 2'
    ):
        check(model, loader(batch_size=1))
    assert check(model, loader(drop_last=True)) == []
    assert check(model, loader(batch_size=1, views=((32, 2), (8, 1)))) == []
    assert check(build_mokd(('vit',)), loader(views=((32, 2), (8, 1)))) == []


def test_another_process_has_the_small_batch(monkeypatch):
    monkeypatch.setattr(input_check_hook, 'all_reduce', lambda tensor, op: tensor.fill_(1.0))
    with pytest.raises(ValueError, match='the last batch of an epoch has one image'):
        check(build_mokd(dict(cnn=with_batch_norm())), loader(length=8))


def test_views_are_refused():
    beit = dict(
        type='BEiTViT', img_size=32, patch_size=8,
        arch=dict(embed_dims=24, num_layers=1, num_heads=2, feedforward_channels=48),
    )  # fmt: skip
    vit = dict(branch_cfg('vit'), backbone=beit)
    model = build_mokd(dict(cnn=branch_cfg('cnn'), beit=vit))
    assert check(model, loader(views=((32, 2), (32, 2)))) == []
    with pytest.raises(ValueError, match='branch beit: the backbone BEiTViT .* images of 24x24'):
        check(model, loader(views=((32, 2), (24, 2))))
    with pytest.raises(ValueError, match='branch beit: .* cannot take images of 40x48'):
        check(model, loader(views=((32, 2), (32, 2))), CenterCrop())
    runner = SimpleNamespace(model=model, test_dataloader=DataLoader(Images(1, CenterCrop())))
    with pytest.raises(ValueError, match='branch beit: .* cannot take images of 40x48'):
        InputCheckHook().before_test(runner)


def test_a_map_of_one_place_is_said():
    ((level, text),) = check(build_mokd(('cnn',)), loader(views=((4, 2), (4, 2))))
    assert level == logging.WARNING and text.startswith('branch cnn: the map of the global views')


def test_other_models_are_left_alone():
    assert check(torch.nn.Linear(1, 1), loader()) == []


def test_members_of_bags_go_with_algorithms_that_take_them():
    bags = NeighborBags(Images(4), 'none.npz', lazy_init=True)
    model = build_mokd(('cnn',))
    with pytest.raises(
        ValueError, match='MOKD takes no members of bags: .*without mmmokd.Neighbor'
    ):
        check(model, DataLoader(bags))
    model.needs_bags = True
    with pytest.raises(ValueError, match='must be a mmmokd.NeighborBags .*, but is Images'):
        check(model, loader())
