# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""LoadImage decodes large JPEGs at the scale that MultiCrop's views need, and nothing else changes."""

import copy

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset
from PIL import Image

from mmmokd.datasets import LoadImage, MultiCrop, iter_transforms, link_decoding

GROUPS = [
    dict(num=2, size=24, scale=(0.4, 1.0), color_jitter_prob=0, blur=0, grayscale=0),
    dict(num=3, size=(8, 12), scale=(0.1, 0.4), color_jitter_prob=0, blur=0, grayscale=0),
]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def photo(height=600, width=800):
    """Details of many sizes, as photographs have them."""
    rng, img = np.random.default_rng(0), np.zeros((height, width, 3))
    for cells in (4, 16, 64):
        coarse = rng.normal(0, 200 / cells, (cells, cells, 3))
        img += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return (img + 128).clip(0, 255).astype(np.uint8)


def save_jpeg(path, img, orientation=None, **kwargs):
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.fromarray(img).save(path, quality=90, exif=exif, **kwargs)
    return str(path)


def read(path, groups=GROUPS, planned=True, num=1):
    """Read and crop a file some times."""
    load, crop = LoadImage(to_rgb=True), MultiCrop(groups)
    if planned:
        load.decode_for(crop)
    torch.manual_seed(0)
    loaded = [load(dict(img_path=str(path), ori_shape=None)) for _ in range(num)]
    shapes = [(each['img_shape'], each['ori_shape']) for each in loaded]
    return shapes, [np.stack(crop(each)['img'][:2]) for each in loaded]


@pytest.mark.parametrize('orientation', [None, *range(1, 9)])
def test_views_of_a_large_photo(tmp_path, orientation):
    path = save_jpeg(tmp_path / 'a.jpg', photo(), orientation)
    ((shape, ori_shape),), (views,) = read(path)
    turned = orientation in (5, 6, 7, 8)
    assert ori_shape == ((800, 600) if turned else (600, 800))
    assert shape[0] / ori_shape[0] == shape[1] / ori_shape[1] in (1 / 2, 1 / 4, 1 / 8)
    (full,), (expected,) = read(path, planned=False)
    assert full == (ori_shape, ori_shape)
    assert np.abs(views.astype(int) - expected).mean() < 1.5


def test_every_crop_keeps_more_pixels_than_its_view(tmp_path):
    path = save_jpeg(tmp_path / 'a.jpg', photo(480, 640))
    load, crop = LoadImage(), MultiCrop(GROUPS)
    load.decode_for(crop)
    factors = set()
    for _ in range(30):
        results = load(dict(img_path=path))
        height, width = results['img_shape']
        factor = 480 // height
        factors.add(factor)
        params, _ = results['multi_crop_plan']
        for view, rows, columns in zip(
            crop.sampler.views, params.height[0] // factor, params.width[0] // factor, strict=True
        ):
            assert rows >= 2 * view.size[0] and columns >= 2 * view.size[1]
        taken = crop._take_params(results, (height, width))
        assert (taken.top + taken.height <= height).all() and (taken.height >= 1).all()
        assert (taken.left + taken.width <= width).all() and (taken.width >= 1).all()
        assert np.abs(taken.top * factor - params.top).max() <= factor
    assert len(factors) > 1


def test_other_images_and_the_random_numbers_stay(tmp_path):
    """Small JPEGs, and every other kind, are decoded whole; views are the same to the bit."""
    files = [save_jpeg(tmp_path / 'small.jpg', photo(40, 50))]
    Image.fromarray(photo()).save(tmp_path / 'a.png')
    files.append(tmp_path / 'a.png')
    for file in files:
        planned, plain = read(file, num=3), read(file, planned=False, num=3)
        assert planned[0] == plain[0]
        assert all((a == b).all() for a, b in zip(planned[1], plain[1], strict=True))


@pytest.mark.parametrize('kind', ['L', 'CMYK'])
def test_gray_and_cmyk_are_reduced(tmp_path, kind):
    Image.fromarray(photo()).convert(kind).save(tmp_path / 'a.jpg', quality=90)
    ((shape, _),), (views,) = read(tmp_path / 'a.jpg')
    assert shape[0] < 600
    assert np.abs(views.astype(int) - read(tmp_path / 'a.jpg', planned=False)[1][0]).mean() < 2


@pytest.mark.parametrize('progressive', [False, True])
def test_files_that_are_cut_off_are_found(tmp_path, messages, progressive):
    path = save_jpeg(tmp_path / 'a.jpg', photo(), progressive=progressive)
    content = (tmp_path / 'a.jpg').read_bytes()
    load = LoadImage()
    load.decode_for(MultiCrop([dict(size=4, scale=(0.5, 1.0))]))
    assert load(dict(img_path=path))['img_shape'] == (75, 100)
    for index, share in enumerate((0.1, 0.5, 0.9, 0.999)):
        cut = tmp_path / f'{index}.jpg'
        cut.write_bytes(content[: int(len(content) * share)])
        assert load(dict(img_path=str(cut))) is None
        assert str(cut) in messages()[-1]


class Listed(BaseDataset):
    def load_data_list(self):
        return [dict(img_path='a.jpg')]


def test_only_what_follows_directly_is_asked():
    def planners(*pipeline):
        dataset = Listed(pipeline=list(pipeline))
        link_decoding(dataset)
        copied = copy.deepcopy(dataset)
        found = [each.planner for each in iter_transforms(copied) if isinstance(each, LoadImage)]
        crops = [each for each in iter_transforms(copied) if isinstance(each, MultiCrop)]
        return found, crops

    found, crops = planners(LoadImage(), MultiCrop(GROUPS))
    assert found == crops and len(found) == 1
    found, _ = planners(LoadImage(), lambda results: results, MultiCrop(GROUPS))
    assert found == [None]
    found, _ = planners(LoadImage())
    assert found == [None]
