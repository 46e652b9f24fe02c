# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import copy
import pickle
import random
from functools import partial

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import default_collate, worker_init_fn
from mmpretrain.datasets.transforms import PackInputs
from PIL import Image
from torch.utils.data import DataLoader, Dataset

import mmmokd.datasets.worker_generator as worker_generator
from mmmokd.datasets import MultiCrop, WorkerGenerator
from mmmokd.registry import TRANSFORMS

PLAIN = dict(flip=0, color_jitter_prob=0, grayscale=0, blur=0)
SMALL = dict(size=6, scale=(0.3, 1.0))


def noise(height=40, width=50, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def views_of(transform, img):
    return transform(dict(img=img))['img']


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# ----------------------------------------------------------------------------------- settings
def test_paper_recipe_is_the_default():
    crop = TRANSFORMS.build(dict(type='mmmokd.MultiCrop'))
    views = views_of(crop, noise(250, 300))
    assert [view.shape for view in views] == [(224, 224, 3)] * 2 + [(96, 96, 3)] * 8
    assert all(view.dtype == np.uint8 for view in views)
    assert all(view.transpose(2, 0, 1).flags.c_contiguous for view in views)
    assert crop.num_views == 10
    assert [group.blur for group in crop.groups] == [1.0, 0.1, 0.5]
    assert [group.solarize for group in crop.groups] == [0.0, 0.2, 0.0]
    assert [group.scale for group in crop.groups] == [(0.25, 1.0), (0.25, 1.0), (0.05, 0.25)]
    for group in crop.groups:
        assert group.color_jitter == (0.4, 0.4, 0.2, 0.1)
        assert (group.flip, group.color_jitter_prob, group.grayscale) == (0.5, 0.8, 0.2)
        assert (group.blur_radius, group.interpolation) == ((0.1, 2.0), 'bicubic')


def test_builds_from_a_config_and_packs():
    groups = [dict(num=2, **SMALL), dict(num=3, size=4, scale=(0.1, 0.3))]
    cfg = Config(dict(crop=dict(type='mmmokd.MultiCrop', groups=groups)))
    results = dict(img=noise(), img_path='a.png', sample_idx=3, gt_label=1, ori_shape=(40, 50))
    packed = PackInputs()(TRANSFORMS.build(cfg.crop)(results))
    shapes = [tuple(view.shape) for view in packed['inputs']]
    assert shapes == [(3, 6, 6)] * 2 + [(3, 4, 4)] * 3
    sample = packed['data_samples']
    assert (sample.img_path, sample.sample_idx, sample.ori_shape) == ('a.png', 3, (40, 50))
    batch = default_collate([packed, packed])
    assert [tuple(view.shape) for view in batch['inputs']] == [(2, *shape) for shape in shapes]


@pytest.mark.parametrize(
    ('groups', 'named'),
    [
        ([], 'at least one'),
        ('abc', 'must be a dict'),
        (dict(size=4), 'size'),
        ([dict(SMALL), dict(SMALL, num=0)], r'groups\[1\]: num'),
        ([dict(SMALL, num=1.5)], 'num'),
        ([dict(SMALL, num=True)], 'num'),
        ([dict(SMALL, size=0)], 'size'),
        ([dict(SMALL, size=(4, 0))], 'size'),
        ([dict(SMALL, size=(4, 4, 4))], 'size'),
        ([dict(scale=(0.1, 1.0))], 'size'),
        ([dict(size=4)], 'scale'),
        ([dict(size=4, scale=(0.0, 1.0))], 'scale'),
        ([dict(size=4, scale=(0.5, 1.1))], 'scale'),
        ([dict(size=4, scale=(0.6, 0.5))], 'scale'),
        ([dict(size=4, scale=0.5)], 'scale'),
        ([dict(size=4, scale=('a', 'b'))], 'scale'),
        ([dict(SMALL, ratio=(0, 1))], 'ratio'),
        ([dict(SMALL, flip=1.1)], 'flip'),
        ([dict(SMALL, flip=-0.1)], 'flip'),
        ([dict(SMALL, flip=float('nan'))], 'flip'),
        ([dict(SMALL, flip=True)], 'flip'),
        ([dict(SMALL, color_jitter_prob=2)], 'color_jitter_prob'),
        ([dict(SMALL, grayscale='0.2')], 'grayscale'),
        ([dict(SMALL, blur=None)], 'blur'),
        ([dict(SMALL, solarize=2)], 'solarize'),
        ([dict(SMALL, blur_radius=(2, 1))], 'blur_radius'),
        ([dict(SMALL, blur_radius=(-1, 1))], 'blur_radius'),
        ([dict(SMALL, color_jitter=0.4)], 'color_jitter'),
        ([dict(SMALL, color_jitter=(0.4, 0.4, 0.4))], 'color_jitter'),
        ([dict(SMALL, color_jitter=(0.4, 0.4, 0.4, 0.6))], 'color_jitter'),
        ([dict(SMALL, color_jitter=(-0.4, 0.4, 0.4, 0.1))], 'color_jitter'),
        ([dict(SMALL, interpolation='cubic')], 'interpolation'),
        ([dict(SMALL, solarise=0.2)], 'solarise'),
        ([5], 'dict'),
    ],
)
def test_a_wrong_setting_is_named(groups, named):
    with pytest.raises(ValueError, match=named):
        MultiCrop(groups=groups)


@pytest.mark.parametrize(
    'img', [noise().astype(np.float32), noise()[..., :2], np.zeros((0, 4, 3), np.uint8), 'a', None]
)
def test_a_wrong_image_is_named(img):
    with pytest.raises(ValueError, match='uint8 array'):
        views_of(MultiCrop([SMALL]), img)


# ----------------------------------------------------------------------------------- pixels
@pytest.mark.parametrize('interpolation', ['bicubic', 'bilinear', 'lanczos'])
def test_identity_is_a_resize_by_pillow(interpolation):
    img = noise(37, 37)
    group = dict(PLAIN, size=16, scale=(1, 1), ratio=(1, 1), interpolation=interpolation)
    (view,) = views_of(MultiCrop([group]), img)
    rgb = Image.fromarray(np.ascontiguousarray(img[..., ::-1]))
    resample = getattr(Image.Resampling, interpolation.upper())
    expected = np.asarray(rgb.resize((16, 16), resample))[..., ::-1]
    assert np.abs(view.astype(int) - expected).max() <= (interpolation != 'lanczos')


@pytest.mark.parametrize('shape', [(30, 30), (30, 30, 1)])
def test_gray_images_are_repeated(shape):
    img = noise()[:30, :30, 0].reshape(shape)
    views = views_of(MultiCrop([dict(PLAIN, num=2, **SMALL)]), img)
    for view in views:
        assert view.shape == (6, 6, 3)
        assert (view == view[..., :1]).all()


@pytest.mark.parametrize(
    'shape', [(1, 1, 3), (1, 200, 3), (200, 1, 3), (2, 3, 3), (1, 9), (3, 1, 1)]
)
def test_tiny_and_thin_images(shape):
    views = views_of(MultiCrop(), np.full(shape, 7, np.uint8))
    assert len(views) == 10
    everything = dict(scale=(0.1, 1.0), num=20, blur=0.7, solarize=0.5)
    groups = [dict(everything, size=size) for size in (1, (2, 5), (5, 1))]
    views = views_of(MultiCrop(groups), np.full(shape, 7, np.uint8))
    assert [view.shape[:2] for view in views] == 20 * [(1, 1)] + 20 * [(2, 5)] + 20 * [(5, 1)]


@pytest.mark.filterwarnings('error')
def test_images_of_any_memory_layout():
    """As planes, mirrored or read-only: the views are the same, and the image stays as it is."""
    img, views = noise(30, 32), []
    planes = np.ascontiguousarray(img.transpose(2, 0, 1)).transpose(1, 2, 0)
    read_only, mirrored = img.copy(), img[:, ::-1].copy()[:, ::-1]
    read_only.setflags(write=False)
    for each in (img, planes, mirrored, read_only):
        torch.manual_seed(0)
        crop = MultiCrop([dict(num=20, **SMALL), dict(PLAIN, num=2, size=(30, 32), scale=(1, 1))])
        views.append(np.concatenate([view.ravel() for view in crop(dict(img=each))['img']]))
        views.append(np.stack(crop(dict(img=each, channel_order='rgb'))['img'][:20]).ravel())
        np.testing.assert_array_equal(each, noise(30, 32))
    for first, second in (views[2:4], views[4:6], views[6:8]):
        assert (first == views[0]).all() and (second == views[1]).all()


def test_color_order_is_kept():
    """Luma weights tell blue from red: a blue image gets dark when made gray, in BGR as well."""
    blue = np.zeros((8, 8, 3), np.uint8)
    blue[..., 0] = 200
    (view,) = views_of(MultiCrop([dict(PLAIN, grayscale=1.0, **SMALL)]), blue)
    assert (view == round(200 * 0.114)).all()


def test_views_of_height_and_width():
    """A pair is (height, width), as the views of it are; the crops are of any shape all the same."""
    group = dict(PLAIN, size=[6, 10], scale=(1, 1), ratio=(5 / 3, 5 / 3))
    crop = MultiCrop([group])
    assert crop.groups[0].size == (6, 10)
    img = noise(30, 50)
    rgb = Image.fromarray(np.ascontiguousarray(img[..., ::-1]))
    expected = np.asarray(rgb.resize((10, 6), Image.Resampling.BICUBIC))[..., ::-1]
    (view,) = views_of(crop, img)
    assert np.abs(view.astype(int) - expected).max() <= 1


def test_crops_are_uniform_in_area_and_flips_in_share():
    """R = x and G = y let the crop be read from the view (nearest: its ends are known)."""
    side, size, num = 256, 8, 4000
    img = np.zeros((side, side, 3), np.uint8)
    img[..., 2], img[..., 1] = np.arange(side), np.arange(side)[:, None]
    group = dict(PLAIN, num=num, size=size, scale=(0.2, 0.5), interpolation='nearest', flip=0.3)
    views = np.stack(views_of(MultiCrop([group]), img)).astype(float)  # (num, size, size, 3)
    across = views[:, 0, -1, 2] - views[:, 0, 0, 2]
    down = views[:, -1, 0, 1] - views[:, 0, 0, 1]
    widths, heights = np.abs(across) * size / (size - 1), down * size / (size - 1)
    areas, ratios = widths * heights / side**2, widths / heights

    # A pixel more or less, of 115 and up, is 1 % of the area or less.
    assert 0.195 < areas.min() < 0.205 and 0.49 < areas.max() < 0.51
    assert np.quantile(areas, [0.25, 0.5, 0.75]) == pytest.approx([0.275, 0.35, 0.425], abs=0.01)
    assert ratios.min() > 0.73 and ratios.max() < 1.37
    assert np.median(ratios) == pytest.approx(1, abs=0.02)
    assert np.mean(across < 0) == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / num) ** 0.5)


@pytest.mark.parametrize(
    ('key', 'prob'), [('grayscale', 0.2), ('solarize', 0.2), ('color_jitter_prob', 0.8)]
)
def test_share_of_changed_views(key, prob):
    num = 2000
    img = np.empty((4, 4, 3), np.uint8)
    img[:] = (200, 100, 60)
    group = dict(PLAIN, num=num, size=2, scale=(0.5, 1.0))
    group[key] = prob
    views = np.stack(views_of(MultiCrop([group]), img))
    changed = (views != (200, 100, 60)).any(axis=(1, 2, 3))
    assert changed.mean() == pytest.approx(prob, abs=4 * (prob * (1 - prob) / num) ** 0.5 + 0.003)
    if key == 'solarize':  # inverted from 128 up
        assert (views[changed] == (55, 100, 60)).all()


# ----------------------------------------------------------------------------------- randomness
def test_the_global_generators_are_left_alone():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    crop = MultiCrop([dict(num=4, **SMALL)])
    views_of(crop, noise())
    with pytest.raises(ValueError, match='uint8'):
        views_of(crop, None)
    assert random.getstate() == before[0]
    assert (np.random.get_state()[1] == before[1]).all()
    assert (torch.get_rng_state() == before[2]).all()
    assert torch.initial_seed() == 1


def test_the_run_seed_decides():
    def draw(seed, epoch):
        torch.manual_seed(seed)
        crop = MultiCrop([dict(num=2, **SMALL)])
        crop.set_epoch(epoch)
        return np.stack([views_of(crop, noise()) for _ in range(2)])

    np.testing.assert_array_equal(draw(3, 5), draw(3, 5))
    assert (draw(3, 5) != draw(4, 5)).any()
    assert (draw(3, 5) != draw(3, 6)).any()
    first, second = draw(3, 5)
    assert (first != second).any()


def test_generator_key_and_errors(monkeypatch):
    torch.manual_seed(0)
    generator = WorkerGenerator()
    first = generator.get()
    assert generator.get() is first
    drawn = {}
    for name, change in {
        'start': lambda: None,
        'epoch 0': lambda: generator.set_epoch(0),
        'epoch 1': lambda: generator.set_epoch(1),
        'stream 1': lambda: generator.set_epoch(1, stream=1),
        'rank 1': lambda: monkeypatch.setattr(worker_generator, 'get_rank', lambda: 1),
        'seed': lambda: torch.manual_seed(2**64 - 1),
    }.items():
        change()
        drawn[name] = torch.randint(2**62, (), generator=generator.get()).item()
    assert len(set(drawn.values())) == len(drawn), drawn
    for wrong in (dict(epoch=-1), dict(epoch=0, stream=-1)):
        with pytest.raises(ValueError, match='>= 0'):
            generator.set_epoch(**wrong)


@pytest.mark.parametrize('duplicate', [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_stay_in_shared_memory(duplicate):
    crop = MultiCrop([SMALL])
    crop.set_epoch(3)
    other = duplicate(crop)
    assert other.generator._epoch_and_stream.tolist() == [3, 0]
    assert other.generator._epoch_and_stream.is_shared()
    other.set_epoch(4)
    assert crop.generator._epoch_and_stream.tolist() == [3, 0]


class SameImage(Dataset):
    """Every sample is the same image, so that whatever differs was drawn."""

    def __init__(self, length=8):
        self.crop = MultiCrop([dict(PLAIN, size=2, scale=(0.1, 1.0))])
        self.img = noise()
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return self.crop(dict(img=self.img))['img'][0].tobytes()


def epochs_of(num_workers, persistent=False, set_epoch=True, seed=0, start=0, context=None):
    """Two epochs of views, as a run of mmengine with this seed would draw them."""
    torch.manual_seed(seed)
    dataset = SameImage()
    init = partial(worker_init_fn, num_workers=num_workers, rank=0, seed=seed)
    loader = DataLoader(
        dataset,
        batch_size=2,
        num_workers=num_workers,
        persistent_workers=persistent,
        worker_init_fn=init,
        collate_fn=list,
        multiprocessing_context=context,
    )
    drawn = []
    for epoch in range(start, start + 2):
        if set_epoch:
            dataset.crop.set_epoch(epoch)
        drawn.append([view for batch in loader for view in batch])
    return drawn


WAYS = [(0, False), (2, False), (2, True)]


@pytest.mark.parametrize(('num_workers', 'persistent'), WAYS)
@pytest.mark.parametrize('set_epoch', [True, False])
def test_views_differ_by_worker_epoch_and_rank(num_workers, persistent, set_epoch, monkeypatch):
    drawn = sum(epochs_of(num_workers, persistent, set_epoch), [])
    assert drawn == sum(epochs_of(num_workers, persistent, set_epoch), [])
    monkeypatch.setattr(worker_generator, 'get_rank', lambda: 1)
    # mmengine's worker_init_fn is given rank 0 here: what differs is the generator's own key.
    drawn += sum(epochs_of(num_workers, persistent, set_epoch), [])
    assert len(set(drawn)) == len(drawn) == 32


@pytest.mark.parametrize(('num_workers', 'persistent'), WAYS)
def test_a_resumed_run_goes_on_with_the_same_views(num_workers, persistent):
    straight = epochs_of(num_workers, persistent)
    torch.rand(3)
    resumed = epochs_of(num_workers, persistent, start=1)
    assert resumed[0] == straight[1]


@pytest.mark.slow
def test_spawned_workers(monkeypatch):
    """A spawned worker knows neither the epoch nor the rank unless they come with the dataset."""
    fork = epochs_of(1, persistent=True, context='fork')
    spawn = epochs_of(1, persistent=True, context='spawn')
    assert spawn == fork
    monkeypatch.setattr(worker_generator, 'get_rank', lambda: 1)
    other_rank = epochs_of(1, persistent=True, context='spawn')
    everything = sum(spawn + other_rank, [])
    assert len(set(everything)) == len(everything)


def test_fixed_draws():
    """Views of an image by epoch, the same in every run, planned before decoding or not."""
    img = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    groups = [dict(num=2, size=16, scale=(0.2, 1.0))]

    def views(epoch, index=3, num_draws=2, plan=False, **kwargs):
        crop = MultiCrop(groups, num_draws=num_draws, **kwargs)
        torch.manual_seed(epoch if epoch is not None else 5)  # of no effect
        if epoch is not None:
            crop.set_epoch(epoch)
        results = dict(img=img, sample_idx=index)
        if plan:
            crop.plan(results, img.shape[:2])
        results = crop(results)
        return results['view_draw'], np.stack(results['img'])

    draw, first = views(0)
    assert draw == 0
    for epoch in (2, 4):  # an epoch takes one draw after the other
        assert views(epoch)[0] == 0 and np.array_equal(views(epoch, plan=True)[1], first)
    others = [views(1), views(0, index=4), views(0, seed=1)]
    assert [draw for draw, _ in others] == [1, 0, 0]
    assert not any(np.array_equal(other, first) for _, other in others)
    draw, found = views(None)  # a loop that counts iterations
    assert np.array_equal(found, views(draw)[1])
    with pytest.raises(ValueError, match='num_draws needs sample_idx, .* but got .*img'):
        MultiCrop(groups, num_draws=2)(dict(img=img))
    with pytest.raises(ValueError, match='num_draws of MultiCrop must be .* at least 1, got 0'):
        MultiCrop(groups, num_draws=0)
