# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import copy
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from image_testing import RAMP, TRUE_RAMP, load, rgb_noise, save
from mmengine.dataset import BaseDataset, worker_init_fn
from PIL import Image
from torch.utils.data import DataLoader

from mmmokd.datasets import BadImageError, LoadImage
from mmmokd.registry import TRANSFORMS


# ----------------------------------------------------------------------------------- modes
@pytest.mark.parametrize('ending', ['png', 'bmp', 'tiff', 'webp', 'ppm'])
def test_color_comes_out_as_bgr(tmp_path, ending):
    rgb = rgb_noise()
    path = save(tmp_path / f'a.{ending}', rgb, **({'lossless': True} if ending == 'webp' else {}))
    np.testing.assert_array_equal(load(path), rgb[..., ::-1])


def test_jpeg_is_pillows(tmp_path):
    path = save(tmp_path / 'a.jpg', rgb_noise(), quality=90)
    with Image.open(path) as img:
        np.testing.assert_array_equal(load(path), np.asarray(img)[..., ::-1])


@pytest.mark.parametrize('given', [False, True])
def test_value_range_of_gray(tmp_path, given):
    values = RAMP // 8  # 0 to 8191
    Image.fromarray(values).save(tmp_path / 'a.png')
    if given:
        img = LoadImage(value_range=[0, 4095])(dict(img=values))['img']
    else:
        img = load(tmp_path / 'a.png', value_range=[0, 4095])
    expected = values.clip(max=4095) / 4095 * 255
    assert np.abs(img - expected[..., None]).max() <= 0.5 + 1e-9
    rgb = rgb_noise()
    np.testing.assert_array_equal(
        load(save(tmp_path / 'b.png', rgb), value_range=(0, 4095)), rgb[..., ::-1]
    )


@pytest.mark.parametrize(
    ('values', 'says'),
    [
        (RAMP // 16, ['0 to 4095 only, of 0 to 65535', 'pipeline.0.value_range=0,4095;']),
        (RAMP // 16 + 29000, ['29000 to 33095 only', 'value_range=(29000, 33095)']),
        (RAMP.astype(np.int32) // 16 - 1024, ['-1024 to 3071 only, of -32768 to 32767']),
        (RAMP // 7, None),
        ((RAMP // 256).astype(np.uint8), None),
        ((RAMP // 16).astype(np.float32), None),
    ],
)
def test_flat_images_are_named_once(tmp_path, read_log, values, says):
    for name in 'ab':
        Image.fromarray(values).save(tmp_path / f'{name}.tif')
    infos = [dict(img_path=str(tmp_path / f'{name}.tif')) for name in 'ab']
    transform = LoadImage()
    for num_workers in (1, 2):  # two that start together could each be the first
        list(DataLoader(infos, num_workers=num_workers, collate_fn=lambda one: transform(*one)))
    flat = [line for line in read_log() if 'of one shade' in line]
    assert len(flat) == (says is not None)
    for text in says or ():
        assert str(tmp_path) in flat[0] and text in flat[0]


# ----------------------------------------------------------------------------------- given
def test_given_arrays():
    bgr = rgb_noise()

    def run(img, **kwargs):
        results = LoadImage(**kwargs)(dict(img=img))
        assert results['ori_shape'] == results['img_shape'] == results['img'].shape[:2]
        return results['img']

    np.testing.assert_array_equal(run(bgr), bgr)
    planes = np.ascontiguousarray(bgr.transpose(2, 0, 1))  # how mmpretrain's CIFAR stores them
    strided = run(planes.transpose(1, 2, 0), channel_order='rgb')
    np.testing.assert_array_equal(strided, bgr[..., ::-1])
    np.testing.assert_array_equal(run(bgr, channel_order='rgb'), bgr[..., ::-1])
    np.testing.assert_array_equal(run(bgr[..., 0]), np.repeat(bgr[..., :1], 3, axis=2))
    np.testing.assert_array_equal(run(bgr[..., :1]), np.repeat(bgr[..., :1], 3, axis=2))
    np.testing.assert_array_equal(run(Image.fromarray(bgr)), bgr[..., ::-1])
    assert np.abs(run(RAMP)[..., 1] - TRUE_RAMP).max() <= 0.5 + 1e-9


@pytest.mark.parametrize('img', [np.zeros((4, 4, 2), np.uint8), np.zeros(4), 'a', 3])
def test_given_nonsense_is_named(img):
    with pytest.raises(ValueError, match="results\\['img'\\] must be an image"):
        LoadImage()(dict(img=img))


def test_wrong_settings():
    with pytest.raises(ValueError, match='channel_order'):
        LoadImage(channel_order='gbr')
    for wrong in (4095, (4095,), (4095, 0), (0, 0), (0, np.inf), 'ab', ('a', 'b'), (0, None)):
        with pytest.raises(ValueError, match=r'such as \(0, 4095\)'):
            LoadImage(value_range=wrong)
    for wrong in (dict(num_samples=0), dict(num_samples=5, max_bad_share=1.5)):
        with pytest.raises(ValueError, match=next(reversed(wrong))):
            LoadImage().track(**wrong)


# ----------------------------------------------------------------------------------- unreadable
def make_bad(folder):
    """Images that do not exist, empty, cut off, or something else."""
    save(folder / 'whole.jpg', rgb_noise(200, 200))
    save(folder / 'whole.png', rgb_noise(200, 200))
    for name in ('whole.jpg', 'whole.png'):
        content = (folder / name).read_bytes()
        (folder / name.replace('whole', 'cut')).write_bytes(content[: len(content) // 2])
    (folder / 'empty.jpg').touch()
    (folder / 'text.jpg').write_text('not an image')
    (folder / 'folder.jpg').mkdir()
    return [
        folder / name
        for name in ('missing.jpg', 'cut.jpg', 'cut.png', 'empty.jpg', 'text.jpg', 'folder.jpg')
    ]


def test_unreadable_images_give_none_and_one_warning(tmp_path, messages):
    paths = make_bad(tmp_path)
    transform = TRANSFORMS.build(dict(type='mmmokd.LoadImage'))
    for _ in range(2):
        for path in paths:
            assert transform(dict(img_path=str(path))) is None
    assert len(messages()) == len(paths)
    for path, message in zip(paths, messages(), strict=True):
        assert str(path) in message
    strict = LoadImage(skip_bad=False)
    for path in paths:
        with pytest.raises(BadImageError, match=path.name):
            strict(dict(img_path=str(path)))


@pytest.mark.parametrize('ending', ['png', 'jpg', 'tif'])
def test_very_large_images(tmp_path, monkeypatch, messages, ending):
    path = save(tmp_path / f'a.{ending}', rgb_noise())
    transform = LoadImage(max_pixels=239)
    assert transform(dict(img_path=str(path))) is None
    for text in ('20 x 12 pixels, more than max_pixels=239', 'pipeline.0.max_pixels=240'):
        assert text in messages()[0]
    # Pillow has a limit of its own, which holds for nobody who has set another here.
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 50)
    for limit in (240, None):
        assert load(path, max_pixels=limit).shape == (12, 20, 3)
    assert Image.MAX_IMAGE_PIXELS == 50
    for wrong in (0, -1, 1.5, 'many'):
        with pytest.raises(ValueError, match='max_pixels must be a whole number above 0'):
            LoadImage(max_pixels=wrong)


def test_more_pixels_than_opencv_takes(tmp_path, monkeypatch, messages):
    cv2.imwrite(str(tmp_path / 'a.png'), np.dstack([RAMP] * 3))

    def refuse(*args):
        error = cv2.error('too many')
        error.err = 'pixels <= CV_IO_MAX_IMAGE_PIXELS'
        raise error

    monkeypatch.setattr(cv2, 'imdecode', refuse)
    assert LoadImage()(dict(img_path=f'{tmp_path}/a.png')) is None
    assert 'OPENCV_IO_MAX_IMAGE_PIXELS says otherwise' in messages()[0]


@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'P', 'L', '1', 'LA', 'CMYK'])
def test_bands_of_other_files(tmp_path, mode):
    """Transparency is left out, and colors change places; gray stays gray."""
    img = Image.fromarray(rgb_noise(channels=4)).convert(mode)
    path = tmp_path / ('a.jpg' if mode == 'CMYK' else 'a.png')
    img.save(path)
    with Image.open(path) as img:
        rgb = np.asarray(img.convert('RGBA'))[..., :3]
    np.testing.assert_array_equal(load(path, bands=(0, 1, 2)), rgb[..., ::-1])
    np.testing.assert_array_equal(load(path, bands=[2, 1, 0]), rgb)
    np.testing.assert_array_equal(load(path, bands=1)[..., 0], rgb[..., 1])
    if mode == 'RGB':
        with pytest.raises(BadImageError, match='has 3 bands, numbers 0 to 2, but'):
            load(path, bands=(0, 1, 3), skip_bad=False)


def test_bands_of_given_arrays():
    values = rgb_noise(channels=6)
    img = LoadImage(bands=(5, 0, 3))(dict(img=values))['img']
    np.testing.assert_array_equal(img, values[..., [3, 0, 5]])
    with pytest.raises(OSError, match='has 6 bands'):
        LoadImage(bands=(6,))(dict(img=values))
    for wrong in ((0, 1), (0, 1, -1), (0.0, 1, 2), 'rgb', ()):
        with pytest.raises(ValueError, match=r'bands must be .* such as \(0, 1, 2\)'):
            LoadImage(bands=wrong)


@pytest.mark.parametrize(
    ('content', 'says'),
    [
        (b'<!DOCTYPE html><title>404</title>', 'it is an HTML page'),
        (b'version https://git-lfs.github.com/spec/v1\noid', 'git lfs pull'),
        (b'<?xml version="1.0"?>\n<svg width="9">', 'it is an SVG'),
        (b'{"error": "not found"}', 'JSON'),
        (b'PK\x03\x04' + bytes(30), 'a zip file'),
        (bytes(300), 'all of its bytes are 0'),
        (b'abc', 'not an image that Pillow knows'),
    ],
)
def test_what_is_found_under_the_name_of_a_image(tmp_path, messages, content, says):
    (tmp_path / 'a.jpg').write_bytes(content)
    assert LoadImage()(dict(img_path=f'{tmp_path}/a.jpg')) is None
    assert says in messages()[0]


def test_another_kind_under_a_name_is_read(tmp_path):
    save(tmp_path / 'a.png', rgb_noise()).rename(tmp_path / 'a.JPG')
    np.testing.assert_array_equal(load(tmp_path / 'a.JPG'), rgb_noise()[..., ::-1])


@pytest.mark.parametrize(
    ('total', 'share', 'borne'),
    [
        (100, 0.01, 1),
        (1000, 0.01, 10),
        (100, 0.29, 29),  # 0.29 * 100 is less than 29 in floating point
        (10, 0.01, 1),  # one is always borne ...
        (10, 0.0, 0),  # ... unless none is wanted
        (1, 0.5, 0),  # nothing is left to take its place
        (5, 1.0, 4),
    ],
)
def test_share_of_unreadable_images(tmp_path, total, share, borne):
    transform = LoadImage()
    transform.track(total, share)
    for index in range(borne):
        assert transform(dict(img_path=f'{tmp_path}/{index}.jpg', sample_idx=index)) is None
    if borne < total:
        message = rf'{borne + 1} of {total} images \(.*%\).*max_bad_share.*/{borne}.jpg'
        with pytest.raises(BadImageError, match=message):
            transform(dict(img_path=f'{tmp_path}/{borne}.jpg', sample_idx=borne))
    assert int(transform.bad_flags.sum()) == borne + 1


def test_flags_survive_copies():
    transform = LoadImage()
    transform.track(4, 0.5)
    flags = transform.bad_flags
    flags[1] = 1
    transform.track(4, 0.25)
    assert transform.bad_flags is flags and transform.max_bad_share == 0.25
    other = copy.deepcopy(transform)
    assert other.bad_flags.tolist() == [0, 1, 0, 0] and other.bad_flags.is_shared()


class Listed(BaseDataset):
    """mmengine's own dataset over given paths."""

    def __init__(self, paths, **kwargs):
        self.paths = paths
        super().__init__(**kwargs)

    def load_data_list(self):
        return [dict(img_path=str(path)) for path in self.paths]


def good_and_bad(folder, num_good, num_bad):
    paths = [save(folder / f'{i}.png', rgb_noise(8, 8)) for i in range(num_good)]
    return paths + [folder / f'bad{i}.png' for i in range(num_bad)]


@pytest.mark.parametrize(
    ('num_workers', 'persistent', 'context'),
    [
        (0, False, None),
        (2, False, 'fork'),
        (2, True, 'fork'),
        pytest.param(1, True, 'spawn', marks=pytest.mark.slow),
    ],
)
def test_workers_share_the_flags(tmp_path, messages, num_workers, persistent, context):
    paths = good_and_bad(tmp_path, 14, 2)
    transform = LoadImage()
    dataset = Listed(paths, pipeline=[transform])
    transform.track(len(dataset), 0.2)
    loader = DataLoader(
        dataset,
        batch_size=2,
        num_workers=num_workers,
        persistent_workers=persistent,
        multiprocessing_context=context,
        collate_fn=list,
        worker_init_fn=partial(worker_init_fn, num_workers=num_workers, rank=0, seed=0),
    )
    for _ in range(2):
        samples = [sample for batch in loader for sample in batch]
        assert len(samples) == 16
        assert all(sample['img'].shape == (8, 8, 3) for sample in samples)
    assert transform.bad_flags.nonzero().flatten().tolist() == [14, 15]
    if context != 'spawn':  # which has a log of its own
        assert len(messages()) == 2
        assert all(any(str(path) in line for line in messages()) for path in paths[14:])


@pytest.mark.parametrize('num_workers', [0, 2])
def test_too_many_stop_the_loader(tmp_path, num_workers):
    torch.manual_seed(0)
    transform = LoadImage()
    dataset = Listed(good_and_bad(tmp_path, 8, 8), pipeline=[transform])
    transform.track(len(dataset), 0.2)
    loader = DataLoader(dataset, batch_size=2, num_workers=num_workers, collate_fn=list)
    # Two workers may find the fourth and the fifth at the same time.
    with pytest.raises(BadImageError, match=r'[45] of 16 images \(.*%\).*bad\d.png'):
        list(loader)
