# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import copy
import struct
import zlib
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset, worker_init_fn
from PIL import Image
from torch.utils.data import DataLoader

from mmmokd.datasets import BadPictureError, LoadPicture
from mmmokd.datasets.transforms.pixels import scale_to_uint8
from mmmokd.registry import TRANSFORMS

RAMP = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)  # every 16th value of 16 bits
TRUE_RAMP = RAMP.astype(np.float64) / 65535 * 255


def rgb_noise(height=12, width=20, channels=3):
    shape = (height, width, channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def save(path, array, mode=None, **kwargs):
    Image.fromarray(array).convert(mode).save(path, **kwargs)
    return path


def load(path, **kwargs):
    results = LoadPicture(**kwargs)(dict(img_path=str(path), sample_idx=0))
    img = results['img']
    assert img.dtype == np.uint8 and img.ndim == 3 and img.shape[2] == 3
    assert results['img_shape'] == results['ori_shape'] == img.shape[:2]
    return img


@pytest.fixture
def messages(read_log):
    return lambda: [line for line in read_log() if 'Unreadable' in line]


# ----------------------------------------------------------------------------------- modes
@pytest.mark.parametrize('ending', ['png', 'bmp', 'tiff', 'webp', 'ppm'])
def test_colour_comes_out_as_bgr(tmp_path, ending):
    rgb = rgb_noise()
    path = save(tmp_path / f'a.{ending}', rgb, **({'lossless': True} if ending == 'webp' else {}))
    np.testing.assert_array_equal(load(path), rgb[..., ::-1])


def test_jpeg_is_pillows(tmp_path):
    path = save(tmp_path / 'a.jpg', rgb_noise(), quality=90)
    with Image.open(path) as img:
        np.testing.assert_array_equal(load(path), np.asarray(img)[..., ::-1])


@pytest.mark.parametrize(('mode', 'ending'), [('L', 'png'), ('L', 'jpg'), ('1', 'png')])
def test_grey_is_repeated(tmp_path, mode, ending):
    path = save(tmp_path / f'a.{ending}', rgb_noise(), mode)
    with Image.open(path) as img:
        grey = np.asarray(img.convert('L'))
    np.testing.assert_array_equal(load(path), np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize(
    ('ending', 'array', 'mode'),
    [
        ('png', RAMP, 'I;16'),
        ('tif', RAMP, 'I;16'),
        ('pgm', RAMP, 'I'),
        ('tif', RAMP.astype(np.int32), 'I'),
    ],
)
def test_16_bit_grey_is_scaled(tmp_path, ending, array, mode):
    path = tmp_path / f'a.{ending}'
    Image.fromarray(array).save(path)
    with Image.open(path) as img:
        assert img.mode == mode
    assert np.abs(load(path) - TRUE_RAMP[..., None]).max() <= 0.5 + 1e-9


def test_big_endian_16_bit_grey_is_scaled(tmp_path):
    path = tmp_path / 'a.tif'
    Image.frombytes('I;16B', (64, 64), RAMP.astype('>u2').tobytes()).save(path)
    with Image.open(path) as img:
        assert img.mode == 'I;16B'
    assert np.abs(load(path) - TRUE_RAMP[..., None]).max() <= 0.5 + 1e-9


def test_signed_and_wide_integers_use_their_types_range():
    signed = np.array([[-32768, 0, 32767]], np.int32)
    np.testing.assert_array_equal(scale_to_uint8(signed), [[0, 128, 255]])
    wide = np.array([[-(2**31), 0, 2**31 - 1]], np.int32)
    np.testing.assert_array_equal(scale_to_uint8(wide), [[0, 128, 255]])
    np.testing.assert_array_equal(scale_to_uint8(np.array([[2**32 - 1]], np.uint32)), [[255]])


@pytest.mark.parametrize(
    ('values', 'expected'),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.2, 255.0], [0, 100, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([1000.0, 2000.0, 3000.0], [0, 128, 255]),
        ([np.nan, 0.0, np.inf], [0, 0, 255]),
        ([np.nan, np.nan, np.nan], [0, 0, 0]),
        ([300.0, 300.0, 300.0], [0, 0, 0]),
    ],
)
def test_floats(tmp_path, values, expected):
    path = tmp_path / 'a.tif'
    Image.fromarray(np.array([values], np.float32)).save(path)
    np.testing.assert_array_equal(load(path)[..., 0], [expected])


def plain_tiff(values, orientation=1):
    """An uncompressed TIFF by the standard; values of shape (H, W, C)."""
    height, width, channels = values.shape
    bits, kind = values.dtype.itemsize * 8, 'uif'.index(values.dtype.kind) + 1
    at = 8 + values.nbytes
    entries = {
        **{256: width, 257: height, 258: at, 259: 1, 262: 2, 273: 8, 274: orientation},
        **{277: channels, 278: height, 279: values.nbytes, 284: 1, 339: at + 2 * channels},
    }
    counts = {258: channels, 339: channels}
    parts = [
        struct.pack('<HHII', tag, 4 if tag in (273, 279) else 3, counts.get(tag, 1), value)
        for tag, value in entries.items()
    ]
    lists = struct.pack(f'<{2 * channels}H', *[bits] * channels, *[kind] * channels)
    directory = struct.pack('<H', len(parts)) + b''.join(parts) + bytes(4)
    return b'II*\0' + struct.pack('<I', at + len(lists)) + values.tobytes() + lists + directory


def deep_noise(channels=3, top=65536):
    return np.random.default_rng(0).integers(0, top, (12, 20, channels), dtype=np.uint16)


def add_chunk(path, chunk):
    """Put a chunk, name and content, behind the header of a PNG."""
    chunk = struct.pack('>I', len(chunk) - 4) + chunk + struct.pack('>I', zlib.crc32(chunk))
    content = path.read_bytes()
    path.write_bytes(content[:33] + chunk + content[33:])


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('ending', ['png', 'tif'])
def test_16_bit_colour_keeps_its_lower_bits(tmp_path, ending, orientation):
    rgb, path = deep_noise(top=4096), tmp_path / f'a.{ending}'
    if ending == 'tif':
        path.write_bytes(plain_tiff(rgb, orientation))
    else:
        cv2.imwrite(str(path), rgb[..., ::-1])
        exif = Image.Exif()
        exif[0x0112] = orientation
        add_chunk(path, b'eXIf' + exif.tobytes().removeprefix(b'Exif\0\0'))
    with Image.open(path) as img:
        assert img.mode == 'RGB'
    img = load(path, value_range=(0, 4095))
    expected = turned(rgb, orientation)[..., ::-1] / 4095 * 255
    assert img.shape == expected.shape and np.abs(img - expected).max() <= 0.5 + 1e-9


@pytest.mark.parametrize('channels', [2, 4])
def test_16_bit_transparency(tmp_path, channels):
    values = deep_noise(4)
    if channels == 2:
        values[..., :3] = values[..., :1]
    cv2.imwrite(str(tmp_path / 'a.png'), values)
    alpha = values[..., 3:] / 65535
    expected = values[..., :3] / 65535 * 255 * alpha + 255 * (1 - alpha)
    assert np.abs(load(tmp_path / 'a.png') - expected).max() <= 1.5


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_one_transparent_colour(tmp_path, dtype):
    """A PNG without alpha may name one colour that is clear."""
    rgb = deep_noise(top=np.iinfo(dtype).max + 1).astype(dtype)
    rgb[:3] = clear = rgb[0, 0]
    cv2.imwrite(str(tmp_path / 'a.png'), rgb[..., ::-1])
    add_chunk(tmp_path / 'a.png', b'tRNS' + struct.pack('>3H', *clear.tolist()))
    with Image.open(tmp_path / 'a.png') as img:
        assert img.mode == 'RGB'
    expected = rgb[..., ::-1] / np.iinfo(dtype).max * 255
    expected[:3] = 255
    assert np.abs(load(tmp_path / 'a.png') - expected).max() <= 0.5 + 1e-9


@pytest.mark.parametrize('orientation', range(1, 9))
def test_colour_in_floats(tmp_path, orientation):
    rgb = deep_noise().astype(np.float32) / 65535
    (tmp_path / 'a.tif').write_bytes(plain_tiff(rgb, orientation))
    expected = turned(rgb, orientation)[..., ::-1].astype(np.float64) * 255
    assert np.abs(load(tmp_path / 'a.tif') - expected).max() <= 0.5 + 1e-4
    halved = load(tmp_path / 'a.tif', value_range=(0, 2))
    assert np.abs(halved - expected / 2).max() <= 0.5 + 1e-4


@pytest.mark.parametrize(
    ('values', 'reason'),
    [
        (np.zeros((4, 4, 4), np.float32), 'it has 4 channels of float32, not 1 or 3'),
        (np.zeros((4, 4, 5), np.float32), 'neither Pillow nor OpenCV can decode it'),
    ],
)
def test_tiffs_that_are_no_picture_say_why(tmp_path, messages, values, reason):
    (tmp_path / 'a.tif').write_bytes(plain_tiff(values))
    assert LoadPicture()(dict(img_path=str(tmp_path / 'a.tif'))) is None
    assert reason in messages()[0]


@pytest.mark.parametrize('given', [False, True])
def test_value_range_of_grey(tmp_path, given):
    values = RAMP // 8  # 0 to 8191
    Image.fromarray(values).save(tmp_path / 'a.png')
    if given:
        img = LoadPicture(value_range=[0, 4095])(dict(img=values))['img']
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
def test_flat_pictures_are_named_once(tmp_path, read_log, values, says):
    for name in 'ab':
        Image.fromarray(values).save(tmp_path / f'{name}.tif')
    infos = [dict(img_path=str(tmp_path / f'{name}.tif')) for name in 'ab']
    transform = LoadPicture()
    for num_workers in (1, 2):  # two that start together could each be the first
        list(DataLoader(infos, num_workers=num_workers, collate_fn=lambda one: transform(*one)))
    flat = [line for line in read_log() if 'of one shade' in line]
    assert len(flat) == (says is not None)
    for text in says or ():
        assert str(tmp_path) in flat[0] and text in flat[0]


@pytest.mark.parametrize(('mode', 'ending'), [('RGBA', 'png'), ('LA', 'png'), ('RGBA', 'webp')])
def test_transparency_is_laid_over_white(tmp_path, mode, ending):
    rgba = rgb_noise(channels=4)
    rgba[0, :, 3], rgba[1, :, 3] = 0, 255
    kwargs = dict(lossless=True, exact=True) if ending == 'webp' else {}
    path = save(tmp_path / f'a.{ending}', rgba, mode, **kwargs)
    with Image.open(path) as img:
        pixels = np.asarray(img.convert('RGBA')).astype(np.float64)
    alpha = pixels[..., 3:] / 255
    expected = pixels[..., :3] * alpha + 255 * (1 - alpha)
    img = load(path)
    assert np.abs(img[..., ::-1] - expected).max() <= 1
    assert (img[0] == 255).all()


def test_palettes(tmp_path):
    img = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert('P')
    img.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    img.save(tmp_path / 'plain.png')
    img.save(tmp_path / 'clear.png', transparency=1)
    img.save(tmp_path / 'clear.gif', transparency=1)
    img.save(tmp_path / 'bytes.png', transparency=b'\x00\xff\xff')
    red, green, blue, white = (0, 0, 255), (0, 255, 0), (255, 0, 0), (255, 255, 255)
    np.testing.assert_array_equal(load(tmp_path / 'plain.png'), [[red, green, blue]])
    np.testing.assert_array_equal(load(tmp_path / 'clear.png'), [[red, white, blue]])
    np.testing.assert_array_equal(load(tmp_path / 'clear.gif'), [[red, white, blue]])
    np.testing.assert_array_equal(load(tmp_path / 'bytes.png'), [[white, green, blue]])


@pytest.mark.parametrize('ending', ['jpg', 'tif'])
def test_cmyk(tmp_path, ending):
    """A flat cyan-and-black: red is (1 - c) (1 - k), as Pillow's conversion has it."""
    cmyk = np.empty((16, 16, 4), np.uint8)
    cmyk[:] = (153, 0, 51, 51)
    path = tmp_path / f'a.{ending}'
    Image.fromarray(cmyk, 'CMYK').save(path)
    expected = [(1 - x / 255) * (1 - 51 / 255) * 255 for x in (51, 0, 153)]
    assert np.abs(load(path) - np.array(expected)).max() <= 3


def turned(array, orientation):
    """The upright form of stored pixels, by the EXIF standard: which side row 0, column 0 is."""
    return {
        1: array,
        2: array[:, ::-1],
        3: array[::-1, ::-1],
        4: array[::-1],
        5: array.transpose(1, 0, 2),
        6: np.rot90(array, -1),
        7: array[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(array),
    }[orientation]


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('ending', ['png', 'tif', 'jpg'])
def test_exif_rotation(tmp_path, ending, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    rgb = np.kron(rgb_noise(3, 5), np.ones((16, 16, 1), np.uint8))
    path = save(tmp_path / f'a.{ending}', rgb, exif=exif)
    img = load(path)[..., ::-1]
    expected = turned(rgb, orientation)
    assert img.shape == expected.shape
    if ending == 'jpg':
        assert np.abs(img.astype(int) - expected).mean() < 8
    else:
        np.testing.assert_array_equal(img, expected)


def test_exif_rotation_of_16_bit_and_broken_exif(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RAMP[:32]).save(tmp_path / 'a.png', exif=exif)
    expected = np.rot90(TRUE_RAMP[:32], -1)
    assert np.abs(load(tmp_path / 'a.png')[..., 0] - expected).max() <= 0.5 + 1e-9
    save(tmp_path / 'b.jpg', rgb_noise(), exif=b'Exif\x00\x00MM\x00*\xff\xff\xff\xffgarbage')
    assert load(tmp_path / 'b.jpg').shape == (12, 20, 3)


# ----------------------------------------------------------------------------------- given
def test_given_arrays():
    bgr = rgb_noise()

    def run(img, **kwargs):
        results = LoadPicture(**kwargs)(dict(img=img))
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
    with pytest.raises(ValueError, match="results\\['img'\\] must be a picture"):
        LoadPicture()(dict(img=img))


def test_wrong_settings():
    with pytest.raises(ValueError, match='channel_order'):
        LoadPicture(channel_order='gbr')
    for wrong in (4095, (4095,), (4095, 0), (0, 0), (0, np.inf), 'ab', ('a', 'b'), (0, None)):
        with pytest.raises(ValueError, match=r'such as \(0, 4095\)'):
            LoadPicture(value_range=wrong)
    for wrong in (dict(num_samples=0), dict(num_samples=5, max_bad_share=1.5)):
        with pytest.raises(ValueError, match=next(reversed(wrong))):
            LoadPicture().track(**wrong)


# ----------------------------------------------------------------------------------- unreadable
def make_bad(folder):
    """Pictures that are not there, empty, cut off, or something else."""
    save(folder / 'whole.jpg', rgb_noise(200, 200))
    save(folder / 'whole.png', rgb_noise(200, 200))
    for name in ('whole.jpg', 'whole.png'):
        content = (folder / name).read_bytes()
        (folder / name.replace('whole', 'cut')).write_bytes(content[: len(content) // 2])
    (folder / 'empty.jpg').touch()
    (folder / 'text.jpg').write_text('not a picture')
    (folder / 'folder.jpg').mkdir()
    return [
        folder / name
        for name in ('missing.jpg', 'cut.jpg', 'cut.png', 'empty.jpg', 'text.jpg', 'folder.jpg')
    ]


def test_unreadable_pictures_give_none_and_one_warning(tmp_path, messages):
    paths = make_bad(tmp_path)
    transform = TRANSFORMS.build(dict(type='mmmokd.LoadPicture'))
    for _ in range(2):
        for path in paths:
            assert transform(dict(img_path=str(path))) is None
    assert len(messages()) == len(paths)
    for path, message in zip(paths, messages(), strict=True):
        assert str(path) in message
    strict = LoadPicture(skip_bad=False)
    for path in paths:
        with pytest.raises(BadPictureError, match=path.name):
            strict(dict(img_path=str(path)))


def test_decompression_bomb(tmp_path, monkeypatch, messages):
    path = save(tmp_path / 'a.png', rgb_noise())
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    assert LoadPicture()(dict(img_path=str(path))) is None
    assert 'DecompressionBomb' in messages()[0]


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
def test_share_of_unreadable_pictures(tmp_path, total, share, borne):
    transform = LoadPicture()
    transform.track(total, share)
    for index in range(borne):
        assert transform(dict(img_path=f'{tmp_path}/{index}.jpg', sample_idx=index)) is None
    if borne < total:
        message = rf'{borne + 1} of {total} pictures \(.*%\).*max_bad_share.*/{borne}.jpg'
        with pytest.raises(BadPictureError, match=message):
            transform(dict(img_path=f'{tmp_path}/{borne}.jpg', sample_idx=borne))
    assert int(transform.bad_flags.sum()) == borne + 1


def test_flags_survive_copies():
    transform = LoadPicture()
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
    transform = LoadPicture()
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
    transform = LoadPicture()
    dataset = Listed(good_and_bad(tmp_path, 8, 8), pipeline=[transform])
    transform.track(len(dataset), 0.2)
    loader = DataLoader(dataset, batch_size=2, num_workers=num_workers, collate_fn=list)
    # Two workers may find the fourth and the fifth at the same time.
    with pytest.raises(BadPictureError, match=r'[45] of 16 pictures \(.*%\).*bad\d.png'):
        list(loader)
