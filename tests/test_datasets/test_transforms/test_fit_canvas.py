# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from mmengine.registry import DefaultScope
from PIL import Image
from plain_views import photo

from mmmokd.datasets import FitCanvas, LoadImage, MultiCrop, canvas_size
from mmmokd.registry import TRANSFORMS
from mmmokd.structures import ViewGroup
from mmmokd.utils.errors import ConfigError, DataError


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ('size', 'shape', 'shown'),
    [(64, (64, 64), (64, 64)), (64, (40, 64), (40, 64)), ((48, 64), (96, 64), (48, 32)),
     (64, (100, 200), (32, 64)), (8, (1, 200), (1, 8)), (64, (3, 2), (3, 2))],
)  # fmt: skip
def test_image_is_whole_on_its_canvas(size, shape, shown):
    img = noise(*shape)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        fit = TRANSFORMS.build(dict(type='mmmokd.FitCanvas', size=size))
    results = fit(dict(img=img, ori_shape=shape, img_path='a'))
    canvas = results['img']
    assert canvas.shape == (*fit.size, 3) and canvas.dtype == np.uint8
    assert results['img_shape'] == shown and results['ori_shape'] == shape
    height, width = shown
    assert not canvas[height:].any() and not canvas[:, width:].any()
    if shown == shape:
        assert np.array_equal(canvas[:height, :width], img)
    else:  # the mean of the area that a pixel stands for
        assert abs(canvas[:height, :width].mean() - img.mean()) < 1


@pytest.mark.parametrize(
    ('shape', 'factor'),
    [((2048, 768), 2), ((1024, 768), 1), ((4096, 200), 4), ((300, 200), 1), ((300, 2047), 1)],
)
def test_large_jpeg_is_decoded_in_reduced_size(tmp_path, shape, factor):
    path, image = tmp_path / 'image.jpg', photo(*shape)
    Image.fromarray(image).save(path, quality=95)
    fit, canvases = FitCanvas(512), []
    assert fit.plan({}, shape) == factor
    for planner in (None, fit):
        load = LoadImage(to_rgb=True)
        load.decode_for(planner)
        results = fit(load(dict(img_path=str(path), sample_idx=0)))
        assert results['ori_shape'] == shape
        canvases.append((results['img'].astype(float), results['img_shape']))
    assert canvases[0][1] == canvases[1][1]
    assert np.abs(canvases[0][0] - canvases[1][0]).mean() < 2


def test_area_is_averaged():
    img = noise(8, 8)
    found = FitCanvas(4)(dict(img=img))
    expected = img.reshape(4, 2, 4, 2, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(found['img'] - expected).max() <= 0.5 and found['ori_shape'] == (8, 8)


def test_canvas_for_the_views():
    assert canvas_size(MultiCrop().groups) == 512  # the paper's
    assert canvas_size([ViewGroup(size=64, scale=(0.4, 1.0))]) == 128
    assert canvas_size([ViewGroup(size=4, scale=(1.0, 1.0))]) == 32


@pytest.mark.parametrize('size', [0, 1.5, (4,), (4, 0), 'x', None])
def test_wrong_size(size):
    with pytest.raises(ConfigError, match='size of FitCanvas'):
        FitCanvas(size)


@pytest.mark.parametrize('img', [None, noise(4, 4)[..., 0], noise(4, 4).astype(float), noise(0, 4)])
def test_wrong_image(img):
    with pytest.raises(DataError, match=r'FitCanvas needs .* uint8'):
        FitCanvas(8)(dict(img=img))
