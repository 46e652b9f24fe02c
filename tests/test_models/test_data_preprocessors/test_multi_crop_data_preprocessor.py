# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from copy import deepcopy

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample
from plain_views import photo, plain_views
from scipy.stats import ks_2samp

from mmmokd.datasets import FitCanvas, MultiCrop
from mmmokd.models.data_preprocessors import MultiCropDataPreprocessor, multi_crop
from mmmokd.registry import MODELS
from mmmokd.structures import ViewSampler
from mmmokd.utils.errors import ConfigError, DataError

GROUPS = [dict(size=24, scale=(0.25, 1.0)), dict(size=24, scale=(0.25, 1.0), blur=0.0, solarize=0.4),
          dict(size=(12, 16), scale=(0.05, 0.25), num=3)]  # fmt: skip
MEAN, STD = [100.0, 110.0, 120.0], [50.0, 60.0, 70.0]
IMAGES = [photo(48, 64, seed) for seed in range(4)]


def batch(images=IMAGES, canvas=None, **fields):
    """As FitCanvas, PackInputs and default_collate give it."""
    results = [FitCanvas(canvas or images[0].shape[:2])(dict(img=image)) for image in images]
    shapes = ('ori_shape', 'img_shape')
    samples = [DataSample(metainfo={key: each[key] for key in shapes}) for each in results]
    inputs = torch.stack([torch.from_numpy(each['img']).permute(2, 0, 1) for each in results])
    return dict(inputs=inputs, data_samples=samples, **fields)


def build(groups=GROUPS, **kwargs):
    return MultiCropDataPreprocessor(groups, **kwargs)


def test_views_are_the_plain_ones_in_their_order_and_normalized():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        cfg = dict(type='mmmokd.MultiCropDataPreprocessor', groups=GROUPS, mean=MEAN, std=STD)
        preprocessor = MODELS.build(cfg)
    preprocessor.set_iteration(3, 17)
    params = ViewSampler(preprocessor.groups).draw(
        [(48, 64)] * 4, deepcopy(preprocessor)._generator()
    )
    found = preprocessor(batch(canvas=70), training=True)
    assert len(found['data_samples']) == 4 and preprocessor.num_views == 5
    sizes = [(24, 24), (24, 24), *[(12, 16)] * 3]
    expected = plain_views(IMAGES, params, sizes)
    for view, images in zip(found['inputs'], expected, strict=True):
        assert view.dtype == torch.float32 and view.is_contiguous()
        levels = view * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
        off = levels.permute(0, 2, 3, 1).numpy() - np.array(images, dtype=np.float32)
        assert np.abs(off).mean() < 0.6
    assert not list(preprocessor.state_dict())  # checkpoints stay as they are


def test_bgr_is_turned_first():
    rgb, bgr = build(), build(to_rgb=True)
    turned = batch()
    turned['inputs'] = turned['inputs'].flip(1)
    for preprocessor in (rgb, bgr):
        preprocessor.set_iteration(0, 0)
    pairs = zip(rgb(batch(), True)['inputs'], bgr(turned, True)['inputs'], strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_random_numbers_follow_seed_rank_and_iteration(monkeypatch):
    preprocessor, states = build(), torch.get_rng_state()

    def views(seed, iteration):
        preprocessor.set_iteration(seed, iteration)
        return torch.cat([view.flatten() for view in preprocessor(batch(), True)['inputs']])

    first = views(0, 5)
    others = [views(0, 6), views(1, 5), views(-1, 5)]
    assert torch.equal(first, views(0, 5))  # whatever was drawn in between
    monkeypatch.setattr(multi_crop, 'get_rank', lambda: 1)
    others.append(views(0, 5))
    assert not any(torch.equal(first, other) for other in others)
    assert torch.equal(states, torch.get_rng_state())
    # Without a hook: by PyTorch's seed, and every call another.
    left, right = build(), build()
    same, other = (each(batch(), True)['inputs'][0] for each in (left, right))
    assert torch.equal(same, other) and not torch.equal(same, left(batch(), True)['inputs'][0])


@pytest.mark.parametrize('training', [False, True])
def test_kept_images_are_those_that_are_sent(training):
    images = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in IMAGES])
    kept, sent = build(keep_images=True, mean=MEAN, std=STD), build(mean=MEAN, std=STD)
    bank = kept.fill_bank(images, torch.tensor([3, -1, 5, 7]))
    assert bank.size == (48, 64) and bank.mib == images.nbytes / 2**20
    assert not list(kept.buffers())[2:] and deepcopy(kept).bank is bank  # not broadcast, not copied
    order = torch.tensor([[2, 0, 1]])  # as a dict of one sample is collated
    for preprocessor in (kept, sent):
        preprocessor.set_iteration(0, 9)
    if not training:
        whole = dict(inputs=images[order[0]], data_samples=None)
        assert torch.equal(kept(whole)['inputs'], sent(whole)['inputs'])
        return
    found = kept(dict(inputs=order), True)
    plain = sent(dict(inputs=images[order[0]], data_samples=None), True)
    assert all(map(torch.equal, found['inputs'], plain['inputs']))
    samples = found['data_samples']
    assert [sample.gt_label.tolist() for sample in samples] == [[5], [3], [-1]]
    assert [sample.sample_idx for sample in samples[1:]] == [0, 1] and len(samples) == 3
    kept.fill_bank(images, None)
    assert kept(dict(inputs=order), True)['data_samples'] is None


def test_evaluation_normalizes_as_ever():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        plain = MODELS.build(dict(type='SelfSupDataPreprocessor', mean=MEAN, std=STD))
    ours = build(mean=MEAN, std=STD)
    assert torch.equal(ours(batch())['inputs'], plain(batch())['inputs'])


@pytest.mark.parametrize(
    ('kwargs', 'inputs', 'message'),
    [
        (dict(groups=None), torch.zeros(2, 3, 8, 8, dtype=torch.uint8), 'has no groups of views'),
        ({}, [torch.zeros(2, 3, 8, 8)], 'leave mmmokd.MultiCrop out'),
        ({}, torch.zeros(2, 3, 8, 8), r'uint8 of shape \(B, 3, H, W\), but got .*float32'),
        ({}, torch.zeros(2, 1, 8, 8, dtype=torch.uint8), r'but got shape \(2, 1, 8, 8\)'),
        ({}, torch.arange(2), r'but got shape \(2,\), torch.int64'),
        (dict(keep_images=True), torch.arange(2), 'numbers of images .* no bank'),
        (dict(keep_images=True), torch.zeros(2, 3, 8, 8, dtype=torch.uint8), 'but got torch.uint8'),
    ],
)
def test_wrong_input(kwargs, inputs, message):
    with pytest.raises((ConfigError, DataError), match=message):
        build(**kwargs)(dict(inputs=inputs, data_samples=None), True)


RAMP = np.stack(np.broadcast_arrays(*np.ogrid[:192:96j, :240:128j], 128), -1).astype(np.uint8)
PLAIN = dict(color_jitter_prob=0.0, grayscale=0.0, blur=0.0)


def statistics(views):
    """Numbers of each view: where it lies and how large it is, on a ramp; its colors on a photo."""
    views = np.stack(views).astype(np.float64)
    corners = views[:, 0, 0, :2], views[:, -1, -1, :2]
    means, spreads = views.mean(axis=(1, 2)), views.std(axis=(1, 2))
    edges = np.abs(np.diff(views, axis=1)).mean(axis=(1, 2, 3))
    extremes = np.quantile(views, [0.05, 0.95], axis=(1, 2, 3)).T
    return np.concatenate([*corners, means, spreads, edges[:, None], extremes], axis=1)


@pytest.mark.parametrize(
    ('image', 'group', 'canvas'),
    [
        (RAMP, dict(PLAIN, size=12, scale=(0.05, 0.6)), (128, 128)),
        (RAMP, dict(PLAIN, size=12, scale=(0.5, 1.0), ratio=(1.5, 3.0)), (64, 64)),  # reduced
        (photo(96, 128), dict(size=16, scale=(0.2, 1.0), solarize=0.3), (96, 128)),
        (photo(96, 128), dict(size=16, scale=(0.05, 0.3), blur=1.0), (96, 128)),
        (photo(60, 40), dict(size=(24, 16), scale=(0.9, 1.0), flip=0.0, blur_radius=(1, 3)), None),
    ],
)
def test_distributions_are_those_of_the_plain_pipeline(image, group, canvas):
    """Of 500 views by either way: means, spreads and all quantiles of nine to thirteen numbers."""
    number, rng = 500, np.random.default_rng(0)
    torch.manual_seed(0)
    crop = MultiCrop([dict(group, num=50)])
    plain = [v for _ in range(number // 50)
             for v in crop(dict(img=image, channel_order='rgb'))['img']]  # fmt: skip
    preprocessor = build([dict(group, num=25)])
    preprocessor.set_iteration(0, 0)
    made = preprocessor(batch([image] * (number // 25), canvas), True)['inputs']
    ours = torch.cat(made).permute(0, 2, 3, 1).numpy()
    ours, theirs = statistics(list(ours)), statistics(plain)
    for a, b in zip(ours.T, theirs.T, strict=True):
        if a.std() < 1e-9 and b.std() < 1e-9:
            continue
        error = ((a.var() + b.var()) / number) ** 0.5
        assert abs(a.mean() - b.mean()) < 4 * error + 0.1
        assert 0.8 < a.std() / b.std() < 1.25
        # Views without color jitter are all nearly alike: quantiles are compared up to half a level.
        a, b = (each + rng.uniform(-0.5, 0.5, number) for each in (a, b))
        assert ks_2samp(a, b).pvalue > 1e-4
