# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""From what files of every kind hold to 8-bit BGR, upright."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from image_testing import RAMP, TRUE_RAMP, load, rgb_noise, save
from PIL import Image

from mmmokd.datasets.transforms.pixels import scale_to_uint8


@pytest.mark.parametrize(('mode', 'ending'), [('L', 'png'), ('L', 'jpg'), ('1', 'png')])
def test_gray_is_repeated(tmp_path, mode, ending):
    path = save(tmp_path / f'a.{ending}', rgb_noise(), mode)
    with Image.open(path) as img:
        gray = np.asarray(img.convert('L'))
    np.testing.assert_array_equal(load(path), np.repeat(gray[..., None], 3, axis=2))


@pytest.mark.parametrize(
    ('ending', 'array', 'mode'),
    [
        ('png', RAMP, 'I;16'),
        ('tif', RAMP, 'I;16'),
        ('pgm', RAMP, 'I'),
        ('tif', RAMP.astype(np.int32), 'I'),
    ],
)
def test_16_bit_gray_is_scaled(tmp_path, ending, array, mode):
    path = tmp_path / f'a.{ending}'
    Image.fromarray(array).save(path)
    with Image.open(path) as img:
        assert img.mode == mode
    assert np.abs(load(path) - TRUE_RAMP[..., None]).max() <= 0.5 + 1e-9


def test_big_endian_16_bit_gray_is_scaled(tmp_path):
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
def test_16_bit_color_keeps_its_lower_bits(tmp_path, ending, orientation):
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
def test_one_transparent_color(tmp_path, dtype):
    """A PNG without alpha may name one color that is clear."""
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
def test_color_in_floats(tmp_path, orientation):
    rgb = deep_noise().astype(np.float32) / 65535
    (tmp_path / 'a.tif').write_bytes(plain_tiff(rgb, orientation))
    expected = turned(rgb, orientation)[..., ::-1].astype(np.float64) * 255
    assert np.abs(load(tmp_path / 'a.tif') - expected).max() <= 0.5 + 1e-4
    halved = load(tmp_path / 'a.tif', value_range=(0, 2))
    assert np.abs(halved - expected / 2).max() <= 0.5 + 1e-4


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
