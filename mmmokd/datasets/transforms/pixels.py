# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""From what image files hold to 8-bit RGB, upright."""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from PIL import Image

ToUint8 = Callable[[np.ndarray], np.ndarray]

EXIF_ORIENTATION = 0x0112
# How Pillow names 16-bit color in PNG, of which it keeps the upper 8 bits.
DEEP_COLOR = ('RGB;16', 'RGBA;16', 'LA;16')
# What to do with the stored pixels, by the orientation that EXIF gives (1: nothing).
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright(img: Image.Image, source: Image.Image | None = None) -> Image.Image:
    """Turn an image as its EXIF orientation says.

    Args:
        img (PIL.Image.Image): A loaded image.
        source (PIL.Image.Image, optional): The image whose EXIF data hold. Defaults to None,
            ``img`` itself.

    Returns:
        PIL.Image.Image: The image, itself if there is nothing to do.
    """
    orientation = read_orientation(source or img)
    return img if orientation == 1 else img.transpose(UPRIGHT[orientation])


def read_orientation(img: Image.Image) -> int:
    """Read the EXIF orientation of an image.

    Args:
        img (PIL.Image.Image): An image, opened.

    Returns:
        int: 1 to 8; 1 if there is none, or it is broken.
    """
    try:
        orientation = img.getexif().get(EXIF_ORIENTATION)
    except Exception:  # Pillow's EXIF parser raises anything; the pixels are good all the same
        return 1
    return orientation if orientation in UPRIGHT else 1


def upright_size(img: Image.Image) -> tuple[int, int]:
    """Read how large an image is, upright.

    Args:
        img (PIL.Image.Image): An image, opened.

    Returns:
        tuple[int, int]: (height, width), in pixels.
    """
    return img.size if read_orientation(img) in (5, 6, 7, 8) else img.size[::-1]


def reduce_decoding(img: Image.Image, factor: int) -> None:
    """Let a JPEG be decoded at a reduced scale, which its decoder does in a fraction of the time.

    Args:
        img (PIL.Image.Image): A JPEG that is opened, and not loaded yet.
        factor (int): 1, 2, 4 or 8, by which width and height are divided, rounded up.
    """
    if factor > 1:
        img.draft(img.mode, (max(img.width // factor, 1), max(img.height // factor, 1)))


def guess_range(values: np.ndarray) -> tuple[float, float]:
    """The values that are black and white, by type and values of an image.

    - Unsigned 16 bits: 0 and 65535. Signed 8 bits: -128 and 127.
    - Other whole numbers: the range of the smallest of uint16, int16 and int32 that holds all
      values of the image (Pillow keeps several kinds of 16-bit images in 32 bits).
    - Floats: 0 and 1 if all values are between, 0 and 255 if all are between these, otherwise the
      least and the greatest value of the image. What is not finite does not count.

    Args:
        values (np.ndarray): Any shape, not empty.

    Returns:
        tuple[float, float]: Black and white.
    """
    if values.dtype.kind == 'f':
        finite = values[np.isfinite(values)]
        least, most = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
        ranges = [(0.0, 1.0), (0.0, 255.0), (least, most)]
    else:
        if values.dtype == np.int8:
            return -128.0, 127.0
        least, most = values.min(), values.max()
        types = (np.uint16, np.int16, np.int32, values.dtype)
        ranges = [(np.iinfo(t).min, np.iinfo(t).max) for t in types]
    low, high = next(r for r in ranges if r[0] <= least and most <= r[1])
    return float(low), float(high)


def scale_to_uint8(
    values: np.ndarray, value_range: tuple[float, float] | None = None
) -> np.ndarray:
    """Bring whole numbers of more than 8 bits, or floats, to 8 bits, linearly, rounded.

    What has 8 bits stays as it is.

    Args:
        values (np.ndarray): Any shape, not empty. Not-a-number counts as black.
        value_range (tuple[float, float], optional): The values that become 0 and 255; what is
            outside is clipped. Defaults to None, :func:`guess_range`.

    Returns:
        np.ndarray: The same shape, uint8.
    """
    if values.dtype == np.uint8:
        return values
    low, high = value_range or guess_range(values)
    values = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
    scaled = (values.clip(low, high) - low) * (255.0 / (high - low) if high > low else 0.0)
    return np.rint(scaled).astype(np.uint8)


def is_deep_color(img: Image.Image) -> bool:
    """Check whether an image has 16-bit color, which Pillow would cut to its upper 8 bits.

    Args:
        img (PIL.Image.Image): An image that is opened, and not loaded yet.

    Returns:
        bool: Whether :func:`decode_deep` is to read it.
    """
    if img.format != 'PNG' or not img.tile:
        return False
    args = img.tile[0][3]  # the name of the stored form, or that and settings of the decoder
    return str(args if isinstance(args, str) else args[0]).startswith(DEEP_COLOR)


def decode_deep(content: bytes, to_uint8: ToUint8, alpha: bool = False) -> Image.Image:
    """Decode 16-bit color by OpenCV, for Pillow has no mode for it.

    Args:
        content (bytes): Of a PNG file.
        to_uint8 (Callable): Brings values to 8 bits, as :func:`scale_to_uint8`.
        alpha (bool): Whether a fourth channel is transparency. Defaults to False.

    Returns:
        PIL.Image.Image: 'L', 'RGB' or 'RGBA', not turned as EXIF says.

    Raises:
        OSError: If OpenCV cannot decode it, or it is neither gray nor color.
    """
    try:
        values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise OSError(
            f'OpenCV cannot decode it: {error.err} (of 16 bits it takes 2^30 pixels, unless the '
            'environment variable OPENCV_IO_MAX_IMAGE_PIXELS says otherwise)'
        ) from error
    if values is None:
        raise OSError('neither Pillow nor OpenCV can decode it')
    if values.ndim == 2:
        return Image.fromarray(to_uint8(values))
    if values.shape[2] > (4 if alpha else 3):
        raise OSError(f'it has {values.shape[2]} channels of {values.dtype}, not 1 or 3')
    rgb = to_uint8(values[..., 2::-1])
    if values.shape[2] == 3:
        return Image.fromarray(np.ascontiguousarray(rgb))
    return Image.fromarray(np.dstack((rgb, scale_to_uint8(values[..., 3]))))


def image_to_rgb(
    img: Image.Image, to_uint8: ToUint8 = scale_to_uint8, bands: Sequence[int] | None = None
) -> np.ndarray:
    """Bring a Pillow image of any mode to RGB.

    Grayscale is repeated, transparency is laid over white, CMYK and others go through Pillow's
    conversion to RGB, and modes of more than 8 bits through ``to_uint8``.

    Args:
        img (PIL.Image.Image): A loaded image.
        to_uint8 (Callable): Brings values to 8 bits. Defaults to :func:`scale_to_uint8`.
        bands (Sequence[int], optional): Numbers of one or three of the bands red, green, blue and
            alpha, which are taken as they are. Defaults to None.

    Returns:
        np.ndarray: (H, W, 3), uint8, RGB.

    Raises:
        OSError: If there is no band of a number in ``bands``, and more than one.
    """
    if img.mode == 'F' or img.mode.startswith('I'):
        return cv2.cvtColor(to_uint8(np.asarray(img)), cv2.COLOR_GRAY2RGB)
    if bands is not None and img.mode not in ('1', 'L'):
        if img.mode not in ('RGB', 'RGBA'):
            img = img.convert('RGBA' if img.has_transparency_data else 'RGB')
        check_band_numbers(bands, len(img.getbands()))
        return take_bands(np.asarray(img), bands)
    if img.has_transparency_data:
        img = img.convert('RGBA')
        img = Image.alpha_composite(Image.new('RGBA', img.size, 'white'), img)
    return np.array(img if img.mode == 'RGB' else img.convert('RGB'))


def check_band_numbers(bands: Sequence[int], count: int) -> None:
    """Raise if an image has fewer bands than are asked for.

    Args:
        bands (Sequence[int]): Their numbers, from 0.
        count (int): Number of bands of the image.

    Raises:
        OSError: If it has too few.
    """
    if max(bands) >= count:
        raise OSError(
            f'it has {count} bands, numbers 0 to {count - 1}, but bands={tuple(bands)} of '
            'LoadImage asks for others'
        )


def take_bands(values: np.ndarray, bands: Sequence[int]) -> np.ndarray:
    """RGB of one or three bands that are given as red, green, blue.

    Args:
        values (np.ndarray): Shape (H, W, C), uint8.
        bands (Sequence[int]): Numbers of one or three bands.

    Returns:
        np.ndarray: (H, W, 3).
    """
    return np.ascontiguousarray(values[..., list(bands) * (3 // len(bands))])


def check_pixels(width: int, height: int, max_pixels: int | None) -> None:
    """Raise if an image is larger than is allowed.

    Args:
        width (int): In pixels.
        height (int): In pixels.
        max_pixels (int, optional): The most pixels; None is no limit.

    Raises:
        OSError: If it has more; says what to do.
    """
    if max_pixels is not None and width * height > max_pixels:
        raise OSError(
            f'it has {width} x {height} pixels, more than max_pixels={max_pixels} of LoadImage. '
            'Cut it into tiles or make it smaller (it is decoded whole for every view of it); or '
            'raise the limit, if each data worker has memory for it: about '
            f'{width * height * 6 / 2**30:.1f} GiB (--cfg-options '
            f'train_dataloader.dataset.pipeline.0.max_pixels={width * height}; the same for '
            'val_dataloader and test_dataloader, where there are such)'
        )
