# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""From a file to the model's input, as RGB all the way or by BGR: the same numbers."""

import cv2
import numpy as np
import pytest
import torch
from image_testing import rgb_noise, save
from mmengine.registry import DefaultScope

import mmmokd.datasets  # noqa: F401
from mmmokd.registry import MODELS, TRANSFORMS

GROUPS = [
    dict(size=16, scale=(0.3, 1.0), solarize=0.5),
    dict(size=(8, 12), scale=(0.1, 0.5), num=3),
]
EVALUATION = [
    dict(type='ResizeEdge', scale=10, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=8),
]
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def model_input(img, to_rgb, transforms, load=None, **kwargs):
    """Return what a model sees of an image, by a loader that gives RGB or one that gives BGR."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        load = load or dict(type='mmmokd.LoadImage', to_rgb=to_rgb, **kwargs)
        steps = [TRANSFORMS.build(step) for step in (load, *transforms, dict(type='PackInputs'))]
        preprocessor = MODELS.build(
            dict(type='SelfSupDataPreprocessor', mean=MEAN, std=STD, to_rgb=not to_rgb)
        )
    torch.manual_seed(0)
    results = dict(img=img) if isinstance(img, np.ndarray) else dict(img_path=str(img))
    for step in steps:
        results = step(results)
    views = results['inputs']
    views = views if isinstance(views, list) else [views]
    data = dict(inputs=[view[None] for view in views], data_samples=[results['data_samples']])
    return preprocessor(data)['inputs']


def make(kind, path):
    """An image of a kind that is read in its own way."""
    rgb = rgb_noise()
    if kind == '16 bits':
        file = path / 'a.png'
        cv2.imwrite(str(file), rgb.astype(np.uint16) * 257)
        return file
    modes = dict(color='RGB', gray='L', palette='P', transparent='RGBA', cmyk='CMYK')
    endings = dict(cmyk='jpg', tiff='tif')
    return save(path / f'a.{endings.get(kind, "png")}', rgb, modes.get(kind))


@pytest.mark.parametrize(
    'kind', ['color', 'gray', 'palette', 'transparent', 'cmyk', '16 bits', 'tiff']
)
@pytest.mark.parametrize('transforms', [[dict(type='mmmokd.MultiCrop', groups=GROUPS)], EVALUATION])
def test_the_model_sees_the_same(tmp_path, kind, transforms):
    file = make(kind, tmp_path)
    by_bgr, as_rgb = (model_input(file, to_rgb, transforms) for to_rgb in (False, True))
    assert len(by_bgr) == len(as_rgb) == (4 if len(transforms) == 1 else 1)
    assert all(torch.equal(a, b) for a, b in zip(by_bgr, as_rgb, strict=True))


@pytest.mark.parametrize('order', ['bgr', 'rgb'])
def test_pixels_that_a_dataset_holds(order):
    img = rgb_noise()
    crop = [dict(type='mmmokd.MultiCrop', groups=GROUPS)]
    by_bgr, as_rgb = (
        model_input(img, to_rgb, crop, channel_order=order) for to_rgb in (False, True)
    )
    assert all(torch.equal(a, b) for a, b in zip(by_bgr, as_rgb, strict=True))


def test_red_is_first(tmp_path):
    """In the order that means and standard deviations are given in."""
    file = save(tmp_path / 'a.png', np.full((9, 9, 3), (200, 100, 50), np.uint8))
    (image,) = model_input(file, True, EVALUATION)
    expected = (torch.tensor([200.0, 100.0, 50.0]) - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(image[0, :, 0, 0], expected)


def test_other_loaders_give_bgr(tmp_path):
    """mmcv's and mmpretrain's mix with MultiCrop as before."""
    file = make('color', tmp_path)
    crop = [dict(type='mmmokd.MultiCrop', groups=GROUPS)]
    theirs = model_input(file, False, crop, load=dict(type='LoadImageFromFile'))
    ours = model_input(file, True, crop)
    assert all(torch.equal(a, b) for a, b in zip(theirs, ours, strict=True))
