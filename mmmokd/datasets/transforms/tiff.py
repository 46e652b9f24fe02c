# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""TIFFs that Pillow has no mode for: any number of bands, of any type, in any layout.

What Pillow reads rightly it reads, as it always did. Of the rest it, and OpenCV, read some from one
band alone or with signs and inversion lost, and say nothing: tifffile reads those.
"""

import io
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from .pixels import check_band_numbers, check_pixels, scale_to_uint8

TIFF_STARTS = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
UNSIGNED = 1
PREMULTIPLIED, STRAIGHT, COREL = 1, 2, 999
PHOTOMETRIC, ORIENTATION, EXTRA_SAMPLES, GDAL_NODATA = 262, 274, 338, 42113
SUBFILE_TYPE, REDUCED, MASK = 254, 1, 4
BITS, SAMPLES, PLANAR, SAMPLE_FORMAT = 258, 277, 284, 339
# Of the values of a band that is called alpha, so many are 0 or the greatest where it is alpha: a
# mask with soft edges. In a band of light, as near-infrared, they are anything.
ALPHA_SHARE = 0.9


# Pillow says of every file with many bands that it cannot read it; tifffile can.
logging.getLogger('PIL.TiffImagePlugin').addFilter(
    lambda record: not str(record.msg).startswith('More samples per pixel')
)
FIRST_THREE = 'the first three are taken for red, green and blue'


class Bands(NamedTuple):
    """The bands of an image as they are stored.

    Attributes:
        values (np.ndarray): Shape (H, W, C); not finite where a file of floats has no data.
        alpha (int | None): The band that the file calls alpha.
        premultiplied (bool): Whether colors are multiplied by it.
        white_is_zero (bool): Whether small values are light.
        white (int | None): The greatest value, where the type alone does not tell: 4095 of 12 bits.
        orientation (int | None): As EXIF has it.
    """

    values: np.ndarray
    alpha: int | None = None
    premultiplied: bool = False
    white_is_zero: bool = False
    white: int | None = None
    orientation: int | None = None


class _Layout(NamedTuple):
    photometric: int
    samples: int
    bits: tuple[int, ...]
    formats: tuple[int, ...]
    extra: tuple[int, ...]
    contiguous: bool
    nodata: str | None
    swapped: bool  # compressed, and of the other byte order, which Pillow forgets of wide types

    @classmethod
    def of(cls, img: Image.Image) -> '_Layout':
        """From the tags of an image that Pillow has opened."""
        tags = img.tag_v2
        samples = tags.get(SAMPLES, 1)
        bits, formats = tags.get(BITS, (1,)), tags.get(SAMPLE_FORMAT, (1,))
        return cls(
            photometric=tags.get(PHOTOMETRIC, WHITE_IS_ZERO),
            samples=samples,
            bits=tuple(bits) * samples if len(bits) == 1 else tuple(bits),
            formats=tuple(formats),
            extra=tuple(np.atleast_1d(tags.get(EXTRA_SAMPLES, ())).tolist()),
            contiguous=tags.get(PLANAR, 1) == 1,
            nodata=tags.get(GDAL_NODATA),
            swapped=tags.prefix.startswith(b'M') and img.info.get('compression') != 'raw',
        )


def is_plain_tiff(img: Image.Image, bands: Sequence[int] | None = None) -> bool:
    """Check whether Pillow reads a TIFF as it is stored.

    Args:
        img (PIL.Image.Image): A TIFF that is opened.
        bands (Sequence[int], optional): The bands that are asked for. Defaults to None.

    Returns:
        bool: False if :func:`read_bands` is to read it.
    """
    layout = _Layout.of(img)
    if layout.photometric in (PALETTE, YCBCR):
        return True
    if layout.photometric == CMYK:
        packed = img.info.get('compression') != 'raw'
        return layout.contiguous or packed or set(layout.bits) == {8}
    bits, samples = set(layout.bits), layout.samples
    unsigned = set(layout.formats) == {UNSIGNED}
    if layout.photometric == RGB:
        color = samples == 3 or (samples == 4 and layout.extra in ((), (0,), (STRAIGHT,), (COREL,)))
        return color and unsigned and bits == {8} and (bands is None or max(bands) < 3)
    if layout.photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO):
        return False
    if samples == 2:
        return unsigned and bits == {8} and layout.extra == (STRAIGHT,) and bands is None
    if samples != 1:
        return False
    if unsigned and bits <= {1, 2, 4, 8}:
        return True
    # 16 bits, signed or not, 32 bits signed and floats.
    known = [({16}, {1}), ({16}, {2}), ({32}, {2}), ({32}, {3})]
    is_known = (bits, set(layout.formats)) in known
    if layout.swapped and layout.formats != (UNSIGNED,):
        return False
    return is_known and layout.photometric == BLACK_IS_ZERO and layout.nodata is None


def read_bands(
    content: bytes,
    img: Image.Image | None = None,
    max_pixels: int | None = None,
    needed: int = 3,
) -> Bands:
    """Read a TIFF's first image as it is stored.

    Args:
        content (bytes): The file's.
        img (PIL.Image.Image, optional): What Pillow makes of it, opened. Defaults to None, nothing.
        max_pixels (int, optional): The most pixels to decode. Defaults to None, no limit.
        needed (int): How many of the bands are wanted at least. Defaults to 3.

    Returns:
        Bands: Its bands.

    Raises:
        OSError: If it is cut off, too large, of colors that are neither gray nor RGB, or compressed
            in a way that needs a library which is not installed; says which.
    """
    import tifffile  # not needed by most

    with tifffile.TiffFile(io.BytesIO(content)) as file:
        page = file.pages.first
        _check_page(page, len(content), max_pixels)
        divided = False
        try:
            values = page.asarray(squeeze=False)
        except Exception as error:
            if 'imagecodecs' not in str(error) and not isinstance(error, ImportError):
                raise
            try:
                values, divided = _read_without_codecs(content, img, needed) or (None, False)
            except Exception:  # what Pillow and OpenCV raise where they know no more
                values = None
            if values is None:
                raise OSError(
                    f'its compression, {_name(page.compression)}'
                    + f' with predictor {_name(page.predictor)}' * (page.predictor > 1)
                    + f', of {page.samplesperpixel} bands of {page.dtype} needs a library that is '
                    'not installed: pip install imagecodecs'
                ) from None
        else:
            if values.shape[1] != 1:
                raise OSError(f'it is a volume of {values.shape[1]} slices, not an image')
            values = values[:, 0].transpose(1, 2, 3, 0).reshape(*values.shape[2:4], -1)
        return _describe(page, values, divided)


def count_pages(content: bytes) -> int:
    """Count the images of a TIFF.

    Args:
        content (bytes): The file's.

    Returns:
        int: Their number, without smaller forms of others and masks.
    """
    import tifffile

    with tifffile.TiffFile(io.BytesIO(content)) as file:
        kinds = [int(page.tags.valueof(SUBFILE_TYPE, 0)) for page in map(_tags_of, file.pages)]
    return sum(not kind & (REDUCED | MASK) for kind in kinds)


def _tags_of(page: Any) -> Any:
    return page.aspage() if hasattr(page, 'aspage') else page


def _name(value: Any) -> str:
    return str(getattr(value, 'name', value))


def _check_page(page: Any, size: int, max_pixels: int | None) -> None:
    """Raise if what a TIFF says of its first image shows that it cannot be read."""
    kinds = (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB)
    if page.photometric not in kinds:
        planes = ' in planes' * (page.planarconfig == 2)
        raise OSError(
            f'its colors are {_name(page.photometric)}, {page.dtype}{planes}; RGB and gray can be '
            'read in any layout, CMYK as pixels'
        )
    if page.dtype is None or page.dtype.kind not in 'uifb':
        raise OSError(f'its values are {page.dtype or "of a type that is not known"}, not numbers')
    check_pixels(page.imagewidth, page.imagelength, max_pixels)
    ends = map(sum, zip(page.dataoffsets, page.databytecounts, strict=True))
    if max(ends, default=0) > size:
        raise OSError('the file is cut off')


def _read_without_codecs(
    content: bytes, img: Image.Image | None, needed: int
) -> tuple[np.ndarray, bool] | None:
    """Read, with Pillow and OpenCV, what tifffile cannot decompress by itself.

    Returns:
        tuple | None: Values as stored, and whether alpha was divided out of the colors.
    """
    if img is None:
        return None
    layout = _Layout.of(img)
    orientation = img.tag_v2.get(ORIENTATION, 1)
    formats, bits, samples = set(layout.formats), set(layout.bits), layout.samples
    unsigned = formats == {UNSIGNED}
    values, divided = None, False
    if layout.photometric == RGB and unsigned and bits == {8}:
        values = np.asarray(img)  # Pillow rotates it while loading, as does OpenCV
        divided = layout.extra[:1] == (PREMULTIPLIED,)
        if divided and not looks_like_alpha(values[..., 3]):
            return None
    elif layout.photometric == RGB and layout.contiguous and samples in (3, 4):
        if bits == {16} and unsigned or bits <= {32, 64} and formats == {3}:
            values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
            if values is not None and values.ndim == 3:
                values = values[..., [2, 1, 0, 3][: values.shape[2]]]
    elif samples == 1 and layout.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO):
        is_known = (img.mode == 'I' and formats == {2}) or img.mode in ('F', 'I;16')
        if is_known and not layout.swapped:
            values, needed = np.asarray(img)[..., None], 1
    if values is None or values.ndim != 3 or values.shape[2] < min(needed, samples):
        return None
    # As it is stored: two of the eight orientations are not their own inverse.
    return turn(values, {6: 8, 8: 6}.get(orientation, orientation)), divided


def turn(values: np.ndarray, orientation: int | None) -> np.ndarray:
    """Turn stored pixels upright.

    Args:
        values (np.ndarray): Shape (H, W, ...), as stored.
        orientation (int, optional): As EXIF has it, 1 to 8; anything else turns nothing.

    Returns:
        np.ndarray: A view of them.
    """
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values


def _describe(page: Any, values: np.ndarray, divided: bool) -> Bands:
    extra = tuple(int(kind) for kind in page.extrasamples)
    base = page.samplesperpixel - len(extra)
    if not extra and page.photometric == RGB and page.samplesperpixel == 4:
        extra, base = (STRAIGHT,), 3  # what many take a fourth band for
    alphas = [k for k, kind in enumerate(extra) if kind in (PREMULTIPLIED, STRAIGHT, COREL)]
    bits, white = int(np.atleast_1d(page.bitspersample).max()), None
    if values.dtype.kind in 'uib' and bits not in (8, 16, 32, 64):
        white = 2**bits - 1
    if bits < 8:
        values, white = scale_to_uint8(values.astype(np.uint16), (0, white)), None
    nodata, orientation = page.tags.get(GDAL_NODATA), page.tags.get(ORIENTATION)
    if nodata is not None and values.dtype.itemsize > 1:
        values = _blank(values, str(nodata.value))
    return Bands(
        values=values,
        alpha=base + alphas[0] if alphas and base + alphas[0] < values.shape[2] else None,
        premultiplied=bool(alphas) and extra[alphas[0]] == PREMULTIPLIED and not divided,
        white_is_zero=page.photometric == WHITE_IS_ZERO,
        white=white,
        orientation=None if orientation is None else int(orientation.value),
    )


def _blank(values: np.ndarray, nodata: str) -> np.ndarray:
    """Take what GDAL calls no data for black: -9999 among heights would be the range's end."""
    try:
        number = float(nodata.strip('\0 '))
    except ValueError:
        return values
    dtype = values.dtype
    if dtype.kind != 'f':
        limits = np.iinfo(dtype)
        if not limits.min <= number <= limits.max or number != int(number):
            return values  # not a number, or none of the type: no value is meant
    with np.errstate(over='ignore'):
        number = dtype.type(number)
    return np.where(values == number, dtype.type(np.nan if dtype.kind == 'f' else 0), values)


def looks_like_alpha(band: np.ndarray, white: int | None = None) -> bool:
    """Check whether a band that is called alpha is one: a mask, opaque somewhere.

    Args:
        band (np.ndarray): Its values, whole numbers or floats.
        white (int, optional): The value that is opaque. Defaults to None: the greatest of whole
            numbers of the type, and 1 of floats.

    Returns:
        bool: False if it is rather a band of light that was given the name.
    """
    opaque = white or (1.0 if band.dtype.kind == 'f' else np.iinfo(band.dtype).max)
    is_opaque = band == opaque
    return bool(is_opaque.any()) and float((is_opaque | (band == 0)).mean()) >= ALPHA_SHARE


def choose_bands(
    stored: Bands, bands: Sequence[int] | None = None
) -> tuple[list[int], int | None, str | None]:
    """Find the bands of the colors.

    Args:
        stored (Bands): What the file holds.
        bands (Sequence[int], optional): The numbers of one or three that are wanted. Defaults to
            None: the first three, or the first if there are fewer.

    Returns:
        tuple[list[int], int | None, str | None]: The numbers of one or three bands, of the one that
        is transparency, if any, and a remark on it.

    Raises:
        OSError: If a wanted band does not exist.
    """
    count = stored.values.shape[2]
    if bands is not None and count > 1:
        check_band_numbers(bands, count)
        return list(bands), None, None
    alpha = stored.alpha
    if alpha is not None and not looks_like_alpha(stored.values[..., alpha], stored.white):
        alpha = None
    colors = [number for number in range(count) if number != alpha]
    remark = None
    if len(colors) > 3 or len(colors) == 2:
        remark = f'has {count} bands, of which ' + (
            FIRST_THREE if len(colors) > 3 else 'the first alone is taken, as gray'
        )
        if stored.alpha != alpha:
            remark += f' (number {stored.alpha}, said to be transparency, does not look like it)'
    return colors[:3] if len(colors) >= 3 else colors[:1], alpha, remark


def bands_to_rgb(
    stored: Bands, chosen: Sequence[int], alpha: int | None, to_uint8: Callable[..., np.ndarray]
) -> np.ndarray:
    """Bring the bands of an image to RGB, upright, over white where it is transparent.

    Args:
        stored (Bands): What the file holds.
        chosen (Sequence[int]): From :func:`choose_bands`, with ``alpha``.
        alpha (int, optional): The band that is transparency.
        to_uint8 (Callable): Brings values to 8 bits, as :func:`scale_to_uint8`; takes their range,
            or None, as ``known``.

    Returns:
        np.ndarray: (H, W, 3), uint8, RGB.
    """
    values = turn(stored.values, stored.orientation)
    known = None if stored.white is None else (0, stored.white)
    colors = to_uint8(np.ascontiguousarray(values[..., list(chosen)]), known=known)
    if stored.white_is_zero:
        colors = 255 - colors
    if len(chosen) == 1:
        colors = np.repeat(colors, 3, axis=2)
    if alpha is not None:
        band = np.ascontiguousarray(values[..., alpha])
        opaque = 1.0 if band.dtype.kind == 'f' else stored.white or np.iinfo(band.dtype).max
        band = scale_to_uint8(band, (0, opaque))
        if stored.premultiplied:
            colors = np.minimum(colors.astype(np.uint16) + (255 - band[..., None]), 255)
        else:
            img = Image.fromarray(np.dstack((colors, band)))
            white = Image.new('RGBA', img.size, 'white')
            colors = np.asarray(Image.alpha_composite(white, img).convert('RGB'))
    return np.ascontiguousarray(colors, dtype=np.uint8)
