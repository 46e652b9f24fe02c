# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""TIFFs of any layout come out as the array that was written, or with a reason why not."""

import importlib.util
import itertools

import numpy as np
import pytest
import tifffile
from image_testing import load
from PIL import Image

from mmmokd.datasets import BadImageError, LoadImage

TYPES = ('u1', 'i1', 'u2', 'i2', 'u4', 'i4', 'f2', 'f4', 'f8')
COMPRESSIONS = ('none', 'lzw', 'deflate', 'packbits', 'zstd', 'jpeg')
NEEDS_CODECS = {'lzw', 'zstd', 'jpeg'}
has_codecs = importlib.util.find_spec('imagecodecs') is not None
needs_codecs = pytest.mark.skipif(not has_codecs, reason='needs imagecodecs')


def noise(bands, dtype='u1', shape=(48, 64)):
    """Values all over the range of the type, of which each band has both ends; floats: 0 to 1."""
    dtype, rng = np.dtype(dtype), np.random.default_rng(0)
    if dtype.kind == 'f':
        values = rng.random((*shape, bands)).astype(dtype)
        low, high = 0, 1
    else:
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        values = rng.integers(low, high, (*shape, bands), dtype=dtype, endpoint=True)
    values[0, 0], values[0, 1] = low, high
    return values


def smooth(bands):
    """8 bits that JPEG hardly changes."""
    y, x = np.mgrid[:48, :64]
    return np.stack([(20 * k + 2 * x + y).astype(np.uint8) for k in range(bands)], axis=2)


def write(path, values, planar='contig', byteorder='<', **kwargs):
    data = values if planar == 'contig' else values.transpose(2, 0, 1)
    data = data[..., 0] if values.shape[2] == 1 and planar == 'contig' else data
    planarconfig = planar if values.shape[2] > 1 else None
    tifffile.imwrite(
        path, data, planarconfig=planarconfig, metadata=None, byteorder=byteorder, **kwargs
    )
    return path


def scaled(values):
    """To 0...255, of the whole range of the type."""
    dtype = values.dtype
    low, high = (0, 1) if dtype.kind == 'f' else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return (values.astype(np.float64) - low) / (float(high) - float(low)) * 255


def check(img, values, limit=0.5):
    """A BGR image against stored values of three bands, or one."""
    expected = np.broadcast_to(scaled(values)[..., ::-1], img.shape)
    # Of floats: the rounding of their own type.
    assert np.abs(img - expected).max() <= limit + 0.1 * (values.dtype == 'f2') + 1e-3


# ----------------------------------------------------------------------------------- layouts
def layouts():
    """(photometric, bands, extrasamples), of what GDAL, OpenCV, ImageJ and others write."""
    yield from (('minisblack', 1, ()), ('miniswhite', 1, ()))
    yield from (('rgb', 3, ()), ('minisblack', 3, (0, 0)), ('minisblack', 2, (0,)))
    for kind in (0, 1, 2):
        yield ('rgb', 4, (kind,))
        yield ('minisblack', 4, (0, 0, kind))
    yield from (('rgb', 5, (0, 0)), ('rgb', 6, (2, 0, 0)), ('minisblack', 8, 7 * (0,)))


def every_layout():
    for layout, dtype, planar, compression, tile in itertools.product(
        layouts(), TYPES, ('contig', 'separate'), COMPRESSIONS, (None, (32, 32))
    ):
        if planar == 'separate' and layout[1] == 1:
            continue
        wide = planar == 'contig' and (layout[1] > 4 or (layout[0], layout[1]) == ('rgb', 4))
        if compression == 'jpeg' and (dtype != 'u1' or wide):  # not to be written
            continue
        yield (*layout, dtype, planar, compression, tile)


def check_layout(folder, layout):
    photometric, bands, extra, dtype, planar, compression, tile = layout
    jpeg = compression == 'jpeg'
    values = smooth(bands) if jpeg else noise(bands, dtype)
    kwargs = dict(photometric=photometric, tile=tile, extrasamples=extra or None)
    if jpeg:
        kwargs['compressionargs'] = dict(level=100)
    path = write(
        folder / 'a.tif',
        values,
        planar,
        compression=None if compression == 'none' else compression,
        **kwargs,
    )
    img = load(path, skip_bad=False)
    expected = values[..., :3] if bands > 2 else values[..., :1]
    if photometric == 'miniswhite':
        info = None if values.dtype.kind == 'f' else np.iinfo(values.dtype)
        # The mirror image of the range: v becomes high + low - v.
        expected = 1 - expected if info is None else ~expected
    check(img, expected, limit=12 if jpeg else 0.5)
    return path


EVERYDAY = [
    ('rgb', 4, (2,), 'u1', 'contig', 'none', None),  # GDAL's default for 4 x 8 bits: "alpha"
    ('rgb', 4, (1,), 'u1', 'contig', 'deflate', None),
    ('minisblack', 4, (0, 0, 0), 'u2', 'contig', 'none', None),  # GDAL's default for 16 bits
    ('minisblack', 4, (0, 0, 0), 'u2', 'separate', 'deflate', (32, 32)),
    ('minisblack', 3, (0, 0), 'u2', 'contig', 'none', None),
    ('minisblack', 3, (0, 0), 'u1', 'separate', 'none', None),
    ('rgb', 3, (), 'u2', 'separate', 'none', None),
    ('rgb', 3, (), 'i2', 'contig', 'none', None),
    ('rgb', 4, (0,), 'f4', 'contig', 'none', None),
    ('minisblack', 8, 7 * (0,), 'f8', 'separate', 'none', None),
    ('minisblack', 8, 7 * (0,), 'u4', 'contig', 'deflate', None),
    ('rgb', 5, (0, 0), 'u1', 'contig', 'none', None),
    ('rgb', 3, (), 'u1', 'separate', 'none', (32, 32)),
    ('minisblack', 1, (), 'i1', 'contig', 'none', None),
    ('minisblack', 1, (), 'u4', 'contig', 'none', None),
    ('minisblack', 1, (), 'f8', 'contig', 'none', None),
    ('miniswhite', 1, (), 'u2', 'contig', 'none', None),
    ('miniswhite', 1, (), 'u1', 'contig', 'none', None),
    pytest.param(('minisblack', 4, (0, 0, 0), 'u2', 'contig', 'lzw', None), marks=needs_codecs),
    pytest.param(('minisblack', 4, (0, 0, 0), 'u1', 'contig', 'jpeg', None), marks=needs_codecs),
]


@pytest.mark.parametrize('layout', EVERYDAY, ids=str)
def test_layout(tmp_path, layout):
    check_layout(tmp_path, layout)


@pytest.mark.parametrize('dtype', ['u2', 'i2', 'i4', 'f4'])
@pytest.mark.parametrize('bands', [1, 4])
def test_the_other_byte_order_compressed(tmp_path, dtype, bands):
    values = noise(bands, dtype)
    path = write(
        tmp_path / 'a.tif', values, byteorder='>', compression='deflate', photometric='minisblack'
    )
    check(load(path), values[..., :3])


@pytest.mark.parametrize('dtype', ['u1', 'u2'])
@pytest.mark.parametrize('planar', ['contig', 'separate'])
@pytest.mark.parametrize('inks', [4, 5])
def test_cmyk(tmp_path, dtype, planar, inks):
    values = noise(inks, dtype)
    path = write(
        *(tmp_path / 'a.tif', values, planar),
        photometric='separated',
        extrasamples=(0,) * (inks - 4) or None,
    )
    try:
        img = load(path, skip_bad=False)
    except BadImageError as error:
        assert 'its colors are SEPARATED' in str(error) and (dtype == 'u2' or inks == 5)
        return
    eight = np.ascontiguousarray(values[..., :4] // (257 if dtype == 'u2' else 1), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(eight, 'CMYK').convert('RGB'))[..., ::-1]
    assert np.abs(img.astype(int) - expected).max() <= 2


@pytest.mark.parametrize('bands', [1, 3, 4])
@needs_codecs
def test_12_bits_that_the_file_tells_of(tmp_path, bands):
    values = noise(bands, 'u2') // 16
    path = write(tmp_path / 'a.tif', values, photometric='minisblack', bitspersample=12)
    expected = values[..., :3][..., ::-1] / 4095 * 255
    assert np.abs(load(path) - expected).max() <= 0.5 + 1e-3


@pytest.mark.long
@needs_codecs
def test_every_layout(tmp_path):
    wrong, count = {}, 0
    for layout in every_layout():
        try:
            check_layout(tmp_path, layout)
        except (AssertionError, BadImageError) as error:
            wrong[layout] = str(error).splitlines()[0]
        count += 1
    assert not wrong and count > 1000


@pytest.mark.long
@needs_codecs
def test_every_layout_without_codecs(tmp_path, monkeypatch):
    """Without imagecodecs a layout is also read correctly, or is named: nothing is wrong silently."""
    paths = {layout: tmp_path / f'{number}.tif' for number, layout in enumerate(every_layout())}
    for layout in every_layout():
        (tmp_path / 'a.tif').rename(check_layout(tmp_path, layout).with_name(paths[layout].name))
    forget_codecs(monkeypatch)
    named = 0
    for layout, path in paths.items():
        photometric, bands, _, dtype, _, compression, _ = layout
        try:
            img = load(path, skip_bad=False)
        except BadImageError as error:
            assert 'pip install imagecodecs' in str(error), (layout, error)
            assert compression in NEEDS_CODECS, layout
            named += 1
            continue
        jpeg = compression == 'jpeg'
        values = smooth(bands) if jpeg else noise(bands, dtype)
        expected = values[..., :3] if bands > 2 else values[..., :1]
        if photometric == 'miniswhite':
            expected = 1 - expected if values.dtype.kind == 'f' else ~expected
        check(img, expected, limit=12 if jpeg else 0.5)
    assert named > 100


def forget_codecs(monkeypatch):
    """As where imagecodecs is not installed: tifffile falls back on what it has itself."""
    from tifffile import _imagecodecs
    from tifffile import tifffile as module

    monkeypatch.setattr(module, 'imagecodecs', _imagecodecs)
    for codecs in (module.TIFF.DECOMPRESSORS, module.TIFF.UNPREDICTORS):
        monkeypatch.setattr(codecs, '_codecs', {1: codecs._codecs[1]})


# ----------------------------------------------------------------------------------- alpha
def disc(dtype, shape=(48, 64)):
    """A mask with an edge of half-transparent pixels, as a cut-out has it."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    far = np.hypot(y - shape[0] / 2, x - shape[1] / 2)
    return (np.clip(20 - far, 0, 1) * np.iinfo(dtype).max).astype(dtype)


@pytest.mark.parametrize('kind', [None, 1, 2])
@pytest.mark.parametrize('dtype', ['u1', 'u2'])
@pytest.mark.parametrize('bands', [2, 4])
def test_true_transparency_is_laid_over_white(tmp_path, read_log, kind, dtype, bands):
    if kind is None and bands == 2:
        pytest.skip('a second band without a name is not transparency')
    values = noise(bands, dtype)
    values[..., -1] = disc(dtype)
    alpha = values[..., -1:] / np.iinfo(dtype).max
    if kind == 1:
        values[..., :-1] = (values[..., :-1] * alpha).astype(dtype)
    path = write(
        tmp_path / 'a.tif',
        values,
        photometric='rgb' if bands == 4 else 'minisblack',
        extrasamples=None if kind is None else (kind,),
    )
    if kind is None:
        drop_tag(path, 338)
    colors = scaled(values[..., :-1])
    expected = (colors if kind == 1 else colors * alpha) + 255 * (1 - alpha)
    assert np.abs(load(path)[..., ::-1] - np.broadcast_to(expected, (48, 64, 3))).max() <= 1.5
    assert not [line for line in read_log() if 'bands' in line]


def drop_tag(path, code):
    """Make a tag one that no reader knows."""
    with tifffile.TiffFile(path) as file:
        offset = file.pages.first.tags[code].offset
    content = bytearray(path.read_bytes())
    content[offset : offset + 2] = (65000).to_bytes(2, 'little')
    path.write_bytes(content)


def test_what_is_called_alpha_and_is_none_is_named_once(tmp_path, read_log):
    paths = [tmp_path / f'{i}.tif' for i in range(3)]
    for path in paths:
        write(path, noise(4), photometric='rgb', extrasamples=(2,))
    drop_tag(paths[1], 338)
    transform = LoadImage()
    for path in paths:
        check(transform(dict(img_path=str(path)))['img'], noise(4)[..., :3])
    (line,) = [line for line in read_log() if 'bands' in line]
    for text in ('0.tif has 4 bands', 'number 3, said to be', 'pipeline.0.bands=0,1,2;'):
        assert text in line


# ----------------------------------------------------------------------------------- options
@pytest.mark.parametrize('bands', [(3, 1, 0), [7, 6, 5], (4,), 2])
def test_bands_are_chosen(tmp_path, read_log, bands):
    values = noise(8, 'u2')
    path = write(tmp_path / 'a.tif', values, photometric='minisblack')
    check(load(path, bands=bands), values[..., list(np.atleast_1d(bands))])
    assert not [line for line in read_log() if 'bands' in line]
    with pytest.raises(BadImageError, match=r'has 8 bands, numbers 0 to 7, but bands=\(0, 1, 8\)'):
        load(path, bands=(0, 1, 8), skip_bad=False)


@pytest.mark.parametrize('extra', [(0,), (1,), (2,)])
def test_the_fourth_of_four_8_bit_bands(tmp_path, extra):
    values = noise(4)
    path = write(tmp_path / 'a.tif', values, photometric='rgb', extrasamples=extra)
    check(load(path, bands=(3, 0, 1)), values[..., [3, 0, 1]])


def test_value_range_of_bands(tmp_path):
    values = noise(5, 'u2') // 16
    path = write(tmp_path / 'a.tif', values, photometric='minisblack')
    expected = values[..., 2::-1] / 4095 * 255
    assert np.abs(load(path, value_range=(0, 4095)) - expected).max() <= 0.5 + 1e-9


@pytest.mark.parametrize('orientation', range(1, 9))
def test_orientation_of_bands(tmp_path, orientation):
    values = noise(5)
    path = write(
        tmp_path / 'a.tif', values, extratags=[(274, 3, 1, orientation, True)], photometric='rgb'
    )
    turned = {
        1: values,
        2: values[:, ::-1],
        3: values[::-1, ::-1],
        4: values[::-1],
        5: values.transpose(1, 0, 2),
        6: np.rot90(values, -1),
        7: values[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(values),
    }[orientation]
    np.testing.assert_array_equal(load(path), turned[..., 2::-1])


# ----------------------------------------------------------------------------------- what is named
@pytest.mark.parametrize('bands', [1, 8])
def test_more_than_one_image_is_named_once(tmp_path, read_log, bands):
    values, path = noise(bands), tmp_path / 'a.tif'
    stored = dict(photometric='minisblack', metadata=None)
    stored['planarconfig'] = 'contig' if bands > 1 else None
    with tifffile.TiffWriter(path) as file:
        file.write(values.squeeze(), **stored)
        for kind in (1, 1):  # smaller forms, as cloud-optimized GeoTIFFs have them
            file.write(values[::2, ::2].squeeze(), subfiletype=kind, **stored)
    transform = LoadImage()
    check(transform(dict(img_path=str(path)))['img'], values[..., :3])
    assert not [line for line in read_log() if 'images, of which' in line]
    with tifffile.TiffWriter(path) as file:
        for _ in range(3):
            file.write(values.squeeze(), **stored)
    for _ in range(2):
        check(transform(dict(img_path=str(path)))['img'], values[..., :3])
    (line,) = [line for line in read_log() if 'images, of which' in line]
    assert 'a.tif holds 3 images, of which the first alone is read' in line


@pytest.mark.parametrize(('dtype', 'nodata'), [('f4', '-9999'), ('i2', '-32768'), ('f8', 'nan')])
@pytest.mark.parametrize('bands', [1, 4])
def test_no_data_is_black_and_no_end_of_the_range(tmp_path, dtype, nodata, bands):
    values = noise(bands, dtype)
    values = values if dtype != 'i2' else np.abs(values // 2)
    values[:5] = values.dtype.type(float(nodata))
    path = write(
        tmp_path / 'a.tif',
        values,
        extratags=[(42113, 2, 0, nodata, True)],
        photometric='minisblack',
    )
    img = load(path)
    assert (img[:5] == 0).all()
    colors = values[5:, :, :3][..., ::-1].astype(np.float64)
    expected = colors * 255 if dtype != 'i2' else colors / 65535 * 255
    assert np.abs(img[5:] - expected).max() <= 0.5 + 1e-3


def test_what_cannot_be_read_says_why(tmp_path, monkeypatch):
    def error(path, **kwargs):
        with pytest.raises(BadImageError) as info:
            load(path, skip_bad=False, **kwargs)
        return str(info.value)

    path = tmp_path / 'a.tif'
    write(path, noise(4, 'u2').astype(np.complex64), photometric='minisblack')
    assert 'its values are complex64, not numbers' in error(path)
    write(path, noise(4, 'u2'), photometric='minisblack')
    path.write_bytes(path.read_bytes()[:-1000])
    assert 'the file is cut off' in error(path)
    write(path, noise(5), photometric='minisblack')
    assert '64 x 48 pixels, more than max_pixels=3071 of LoadImage' in error(path, max_pixels=3071)
    write(path, noise(4, 'u2'), photometric='minisblack')
    forget_codecs(monkeypatch)
    content = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        offset = file.pages.first.tags[259].valueoffset
    path.write_bytes(content[:offset] + b'\x05\0' + content[offset + 2 :])
    assert 'its compression, LZW, of 4 bands of uint16 needs' in error(path)
    assert 'pip install imagecodecs' in error(path)
