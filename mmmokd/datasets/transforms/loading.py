# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import logging
from collections.abc import Sequence
from functools import partial
from numbers import Real
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.logging import print_log
from PIL import Image

from mmmokd.registry import TRANSFORMS
from mmmokd.utils import BadImageError
from mmmokd.utils.errors import ConfigError
from mmmokd.utils.names import printable

from .files import decoding, open_image, read_file
from .pixels import (
    check_band_numbers,
    decode_deep,
    guess_range,
    image_to_rgb,
    is_deep_color,
    reduce_decoding,
    scale_to_uint8,
    take_bands,
    upright,
    upright_size,
)
from .tiff import (
    FIRST_THREE,
    SAMPLES,
    Bands,
    bands_to_rgb,
    choose_bands,
    count_pages,
    is_plain_tiff,
    read_bands,
)

# Pillow's own guard against files that are small and blow up.
MAX_PIXELS = 178_956_970
# An image that uses less than this share of the range that its type has is called flat.
FLAT_SHARE = 1 / 8
# Formats of Pillow whose decoder can reduce: MPO is what some cameras make of JPEG.
JPEGS = ('JPEG', 'MPO')


@runtime_checkable
class Planner(Protocol):
    """A transform that tells, before an image is decoded, how much of its resolution it needs."""

    def plan(self, results: dict, size: tuple[int, int]) -> int:
        """Plan what the transform will do with an image.

        Args:
            results (dict): Of the image; the plan may be kept in it.
            size (tuple[int, int]): The image's (height, width), upright, in pixels.

        Returns:
            int: 1, 2, 4 or 8, by which its height and width may be divided.
        """


def _are_bands(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) in (1, 3)
        and all(isinstance(number, int) and number >= 0 for number in value)
    )


def _is_value_range(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(number, Real) for number in value)
        and -np.inf < value[0] < value[1] < np.inf
    )


@TRANSFORMS.register_module()
class LoadImage(BaseTransform):
    """Read an image of any usual kind as 8-bit BGR or RGB, upright.

    Pillow decodes (jpg, png, webp, tiff, ...), of several frames the first. OpenCV decodes PNGs of
    16-bit color, and tifffile the TIFFs that Pillow has no mode for: of any number of bands, type
    and layout. heic and jxl are read where pillow-heif and pillow-jxl-plugin are installed. EXIF
    rotation is applied; for what becomes of grayscale, CMYK and transparent images see
    :func:`image_to_rgb`, for 16 bits and floats :func:`guess_range`.

    Of a TIFF with more than three bands the first three are red, green and blue, as stored, which
    the first such image says in a warning; ``bands`` names others. A band that the file calls
    transparency is that only if it looks like a mask: near-infrared is often called so.

    An unreadable image (missing, empty, truncated, no image) gives a warning with its path and
    ``None``, for which mmengine's dataset takes another one. After :meth:`track`, which
    ``DataHealthHook`` calls, the warning comes once for each image, whichever worker meets it,
    and too many unreadable images are an error.

    **Required Keys:** img_path (str), or img (np.ndarray, PIL.Image.Image) where the dataset
    holds the pixels itself; sample_idx (int), which mmengine's datasets give, to be counted.

    **Added Keys:** img (np.ndarray): (H, W, 3), uint8; channel_order (str): ``'bgr'`` or ``'rgb'``;
    img_shape (Tuple[int, int]): (H, W); ori_shape (Tuple[int, int]): the same, but of the file where
    the image was decoded at a reduced scale, see :meth:`decode_for`.

    Args:
        backend_args (dict, optional): Arguments of mmengine's file backend. Defaults to None,
            which chooses it by the path.
        channel_order (str): 'bgr' or 'rgb', the order in arrays that the dataset holds itself
            (mmpretrain's CIFAR holds 'rgb'). Defaults to 'bgr'.
        skip_bad (bool): True: an unreadable image is left out. False: it is an error, as
            evaluation needs it (``DataHealthHook`` and ``ImageFolder`` see to that for
            datasets in test mode). Defaults to True.
        value_range (tuple[float, float], optional): The values that are black and white in
            images of more than 8 bits or of floats: ``(0, 4095)`` for 12 bits kept in 16. Those
            of 8 bits stay as they are. Defaults to None, :func:`guess_range`; the first image
            whose whole numbers use less than an eighth of the range gives a warning.
        bands (Sequence[int], optional): Numbers, from 0, of the three bands that are read as red,
            green and blue, or of one that is read as gray; of images other than TIFFs, of red,
            green, blue and transparency. All are taken as they are stored. Images of one band are
            gray all the same. Defaults to None, see above.
        to_rgb (bool): Whether the image is given as RGB, which spares the way there and back where
            what follows works in RGB, as :class:`MultiCrop` does. The ``data_preprocessor`` then has
            ``to_rgb=False``. Defaults to False: as BGR, which mmpretrain's transforms of colors and
            its data preprocessors with ``to_rgb=True`` take.
        max_pixels (int, optional): The most pixels that an image may have; a larger one counts as
            unreadable, so that no file exhausts the memory. None is no limit. Defaults to
            178,956,970, Pillow's own.

    Raises:
        ConfigError: If ``channel_order`` is neither, ``value_range`` is not a range, ``bands`` are not
            numbers of one or three bands, or ``max_pixels`` is not a whole number above 0.
    """

    def __init__(
        self,
        backend_args: dict | None = None,
        channel_order: str = 'bgr',
        skip_bad: bool = True,
        value_range: Sequence[float] | None = None,
        bands: Sequence[int] | None = None,
        max_pixels: int | None = MAX_PIXELS,
        to_rgb: bool = False,
    ) -> None:
        if channel_order not in ('bgr', 'rgb'):
            raise ConfigError(f"channel_order must be 'bgr' or 'rgb', got {channel_order!r}.")
        if value_range is not None and not _is_value_range(value_range):
            raise ConfigError(
                'value_range must be two numbers, of black and of white, such as (0, 4095), got '
                f'{value_range!r}.'
            )
        bands = (bands,) if isinstance(bands, int) else bands
        if bands is not None and not _are_bands(bands):
            raise ConfigError(
                'bands must be the numbers, from 0, of three bands that are red, green and blue, '
                f'such as (0, 1, 2), or of one, got {bands!r}.'
            )
        if max_pixels is not None and not (isinstance(max_pixels, int) and max_pixels >= 1):
            raise ConfigError(
                f'max_pixels must be a whole number above 0, or None, got {max_pixels!r}.'
            )
        self.backend_args = backend_args
        self.channel_order = channel_order
        self.skip_bad = skip_bad
        self.value_range = None if value_range is None else tuple(value_range)
        self.bands = None if bands is None else tuple(bands)
        self.max_pixels = max_pixels
        self.to_rgb = to_rgb
        # In shared memory: one warning, whichever worker meets the first such image.
        self._bands_seen = torch.zeros(1, dtype=torch.uint8).share_memory_()
        self._pages_seen = torch.zeros(1, dtype=torch.uint8).share_memory_()
        self._flat_seen = torch.zeros(1, dtype=torch.uint8).share_memory_()
        self.planner: Planner | None = None
        self.max_bad_share = 1.0
        self.bad_flags: torch.Tensor | None = None
        self._warned: set[str] = set()

    def track(self, num_samples: int, max_bad_share: float = 0.01) -> None:
        """Count unreadable images across all workers, from now on.

        To be called before the workers start. The flags are in shared memory: ``bad_flags``, uint8
        of shape (num_samples,), 1 for every sample that could not be read.

        Args:
            num_samples (int): Number of samples of the dataset, the range of 'sample_idx'.
            max_bad_share (float): Share of unreadable samples, 0 to 1, above which reading
                raises. One unreadable image is always borne, so that a small set does not fail
                by its first, except with 0. That no image is readable is always an error.
                Defaults to 0.01.

        Raises:
            ConfigError: If ``num_samples`` < 1 or ``max_bad_share`` is outside 0 to 1.
        """
        if num_samples < 1:
            raise ConfigError(f'num_samples must be >= 1, got {num_samples}.')
        if not 0 <= max_bad_share <= 1:
            raise ConfigError(f'max_bad_share must be in [0, 1], got {max_bad_share}.')
        self.max_bad_share = max_bad_share
        if self.bad_flags is None or len(self.bad_flags) != num_samples:
            self.bad_flags = torch.zeros(num_samples, dtype=torch.uint8).share_memory_()

    def decode_for(self, planner: Planner | None) -> None:
        """Decode JPEGs at the smallest scale that the next transform can do with.

        Their decoder reduces by 2, 4 or 8, which makes a view of a large photograph several times
        as fast. ``DataHealthHook`` calls this where :class:`MultiCrop` follows directly.

        Args:
            planner (MultiCrop, optional): The next transform, and the only one that sees the image.
                Its ``plan(results, size)`` is told the image's (height, width), upright, and gives 1,
                2, 4 or 8, by which both may be divided. None decodes at full scale, as at first.
        """
        self.planner = planner

    def check_share(self, last_path: str) -> None:
        """Raise if more samples are flagged than may be.

        Args:
            last_path (str): The image that was found unreadable last, and why, if that is known.

        Raises:
            BadImageError: With count, share, limit and ``last_path``.
        """
        count, total = int(self.bad_flags.count_nonzero()), len(self.bad_flags)
        borne_alone = count == 1 and self.max_bad_share > 0 and total > 1
        if count == 0 or borne_alone:
            return
        if count / total > self.max_bad_share or count == total:
            raise BadImageError(
                f'{count} of {total} images ({count / total:.2%}) cannot be read, more than the '
                f'{self.max_bad_share:.2%} that max_bad_share allows; the last one: {last_path}'
            )

    def transform(self, results: dict) -> dict | None:
        """Read the image.

        Args:
            results (dict): With 'img_path' or 'img'.

        Returns:
            dict, optional: The same dict with the image; None if it is unreadable.

        Raises:
            BadImageError: If it is unreadable and ``skip_bad`` is False, or too many are.
            ConfigError: If 'img' is given and is not an image.
        """
        found, wanted = 'rgb', 'rgb' if self.to_rgb else 'bgr'
        results.pop('ori_shape', None)
        if results.get('img') is not None:
            img, found = self._convert_given(results)
        else:
            img, error = self._try_read(results['img_path'], results)
            if error is not None:
                self._handle_bad(results, error)
                return None
        results['img'] = img if found == wanted else cv2.cvtColor(img, cv2.COLOR_RGB2BGR)
        results['channel_order'] = wanted
        results['img_shape'] = img.shape[:2]
        results.setdefault('ori_shape', img.shape[:2])
        return results

    def _try_read(self, path: str, results: dict) -> tuple[np.ndarray | None, Exception | None]:
        try:
            return self._read(path, results), None
        except MemoryError:
            raise
        except Exception as error:  # decoders raise anything when they meet a broken file
            return None, error

    def _read(self, path: str, results: dict) -> np.ndarray:
        to_uint8 = partial(self._to_uint8, name=path)
        content = read_file(path, self.backend_args)
        img = open_image(content, self.max_pixels)
        if img is None:
            self._check_pages(content, path)
            return self._read_bands(content, None, path)
        with img, decoding(img):
            if img.format == 'TIFF':
                return self._read_tiff(content, img, path)
            if self.planner is not None and img.format in JPEGS:
                results['ori_shape'] = upright_size(img)
                reduce_decoding(img, self.planner.plan(results, results['ori_shape']))
            deep = is_deep_color(img)
            img.load()  # OpenCV does not tell of a file that is cut off
            if deep:
                deep_img = decode_deep(content, to_uint8, alpha=img.has_transparency_data)
                return image_to_rgb(upright(deep_img, img), bands=self.bands)
            return image_to_rgb(upright(img), to_uint8, self.bands)

    def _read_tiff(self, content: bytes, img: Image.Image, path: str) -> np.ndarray:
        """Read a TIFF by Pillow, where that knows how it is stored; its fourth band with care."""
        if img.tag_v2.next:
            self._check_pages(content, path)
        if not is_plain_tiff(img, self.bands):
            return self._read_bands(content, img, path)
        left_out = img.tag_v2.get(SAMPLES, 1) == 4 and img.mode == 'RGB'
        img.load()
        if img.mode in ('RGBA', 'LA'):
            values = np.asarray(img)
            return self._choose_bands(Bands(values, alpha=values.shape[2] - 1), path)
        if left_out and self.bands is None:
            self._warn_bands(path, f'has 4 bands, of which {FIRST_THREE}')
        return image_to_rgb(img, partial(self._to_uint8, name=path), self.bands)

    def _read_bands(self, content: bytes, img: Image.Image | None, path: str) -> np.ndarray:
        needed = max(self.bands or (2,)) + 1
        return self._choose_bands(read_bands(content, img, self.max_pixels, needed), path)

    def _choose_bands(self, stored: Bands, path: str) -> np.ndarray:
        chosen, alpha, remark = choose_bands(stored, self.bands)
        if remark:
            self._warn_bands(path, remark)
        return bands_to_rgb(stored, chosen, alpha, partial(self._to_uint8, name=path))

    def _check_pages(self, content: bytes, path: str) -> None:
        """Say once that a TIFF holds more images: bands are sometimes stored so."""
        if self._pages_seen:
            return
        pages = count_pages(content)
        if pages > 1:
            self._pages_seen[0] = 1
            print_log(
                f'{printable(path)} holds {pages} images, of which the first alone is read. If they '
                'are bands of one, store them as bands',
                logger='current',
                level=logging.WARNING,
            )

    def _warn_bands(self, path: str, remark: str) -> None:
        if self._bands_seen:
            return
        self._bands_seen[0] = 1
        print_log(
            f'{printable(path)} {remark}. If your images are like this, say which bands you want, for '
            'instance bands=(0, 1, 2) of LoadImage in every pipeline (--cfg-options '
            'train_dataloader.dataset.pipeline.0.bands=0,1,2; the same for val_dataloader and '
            'test_dataloader, where there are such)',
            logger='current',
            level=logging.WARNING,
        )

    def _to_uint8(
        self, values: np.ndarray, name: str, known: tuple[float, float] | None = None
    ) -> np.ndarray:
        value_range = self.value_range or known
        if value_range is None and values.dtype.kind in 'ui' and values.dtype.itemsize > 1:
            low, high = guess_range(values)
            least, most = int(values.min()), int(values.max())
            if most - least < FLAT_SHARE * (high - low) and not self._flat_seen:
                self._flat_seen[0] = 1
                self._warn_flat(name, (least, most), (int(low), int(high)))
        return scale_to_uint8(values, value_range)

    @staticmethod
    def _warn_flat(name: str, used: tuple[int, int], possible: tuple[int, int]) -> None:
        fitting = [2**bits - 1 for bits in (10, 12, 14) if used[1] < 2**bits and used[0] >= 0]
        low, high = (0, fitting[0]) if fitting else used
        print_log(
            f'{printable(name)} has values from {used[0]} to {used[1]} only, of {possible[0]} to '
            f'{possible[1]}, and comes out nearly of one shade. If your images are like this, say '
            f'which values are black and white, for instance value_range=({low}, {high}) of '
            'LoadImage in every pipeline (--cfg-options '
            f'train_dataloader.dataset.pipeline.0.value_range={low},{high}; the same for '
            'val_dataloader and test_dataloader, where there are such)',
            logger='current',
            level=logging.WARNING,
        )

    def _convert_given(self, results: dict) -> tuple[np.ndarray, str]:
        """An image that the dataset holds itself, and its channels' order."""
        img = results['img']
        to_uint8 = partial(self._to_uint8, name=f'Image {results.get("sample_idx", "")}'.strip())
        if isinstance(img, Image.Image):
            return image_to_rgb(upright(img), to_uint8, self.bands), 'rgb'
        shape, dtype = getattr(img, 'shape', ()), getattr(img, 'dtype', None)
        channels = 1 if len(shape) == 2 else shape[-1] if len(shape) == 3 else None
        fits = channels in (1, 3) or (channels and self.bands is not None)
        if not fits or 0 in shape or np.dtype(dtype).kind not in 'uif':
            raise ConfigError(
                "results['img'] must be an image: an array of shape (H, W), (H, W, 1) or "
                f'(H, W, 3), but got {type(img).__name__} of shape {tuple(shape)}, type {dtype}.'
            )
        if self.bands is not None and channels > 1:
            check_band_numbers(self.bands, channels)
            chosen = to_uint8(img[..., list(self.bands)])
            return take_bands(chosen, range(len(self.bands))), 'rgb'
        img = to_uint8(img)
        if channels == 1:
            return cv2.cvtColor(img, cv2.COLOR_GRAY2RGB), 'rgb'
        return img, self.channel_order

    def _handle_bad(self, results: dict, error: Exception) -> None:
        path = printable(str(results['img_path']))
        reason = f'{path}: {type(error).__name__}: {error}'
        if not self.skip_bad:
            raise BadImageError(f'Cannot read the image {reason}') from error
        index = results.get('sample_idx')
        tracked = self.bad_flags is not None and index is not None
        known = self.bad_flags[index] if tracked else path in self._warned
        if known:
            return
        if tracked:
            self.bad_flags[index] = 1
        else:
            self._warned.add(path)
        self.warn(reason)
        if tracked:
            self.check_share(reason)

    @staticmethod
    def warn(reason: str) -> None:
        """Log that an image is left out.

        Args:
            reason (str): Its path, and what is wrong with it.
        """
        print_log(
            f'Unreadable image, another one takes its place: {reason}',
            logger='current',
            level=logging.WARNING,
        )

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        # A deep copy or a plain pickle leaves shared memory, torch's own pickle does not.
        for flags in (self.bad_flags, self._flat_seen, self._bands_seen, self._pages_seen):
            if flags is not None:
                flags.share_memory_()

    def __repr__(self) -> str:
        return (
            f'{self.__class__.__name__}(backend_args={self.backend_args}, '
            f"channel_order='{self.channel_order}', skip_bad={self.skip_bad}, "
            f'value_range={self.value_range}, bands={self.bands}, max_pixels={self.max_pixels}, '
            f'to_rgb={self.to_rgb})'
        )
