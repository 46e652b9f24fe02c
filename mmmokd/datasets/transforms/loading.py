# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import io
import logging

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine import fileio
from mmengine.logging import print_log
from PIL import Image, UnidentifiedImageError

from mmmokd.registry import TRANSFORMS
from mmmokd.utils import BadPictureError

EXIF_ORIENTATION = 0x0112
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


def upright(img: Image.Image) -> Image.Image:
    """Turn a picture as its EXIF orientation says.

    Args:
        img (PIL.Image.Image): A loaded picture.

    Returns:
        PIL.Image.Image: The picture, itself if there is nothing to do.
    """
    try:
        orientation = img.getexif().get(EXIF_ORIENTATION)
    except Exception:  # Pillow's EXIF parser raises anything; the pixels are good all the same
        return img
    return img.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else img


def scale_to_uint8(values: np.ndarray) -> np.ndarray:
    """Bring whole numbers of more than 8 bits, or floats, to 8 bits, linearly, rounded.

    - Unsigned 16 bits: 0 to 65535 becomes 0 to 255.
    - Other whole numbers: the range of the smallest of uint16, int16 and int32 that holds all
      values of the picture becomes 0 to 255 (Pillow keeps several kinds of 16-bit pictures in
      32 bits).
    - Floats: 0 to 1 becomes 0 to 255 if all values are in it, 0 to 255 stays if all are in that,
      otherwise the picture's own range becomes 0 to 255. Not-a-number becomes the lowest value.

    Args:
        values (np.ndarray): Any shape, not empty.

    Returns:
        np.ndarray: The same shape, uint8.
    """
    if values.dtype.kind == 'f':
        finite = values[np.isfinite(values)]
        least, most = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
        ranges = [(0.0, 1.0), (0.0, 255.0), (least, most)]
        low, high = next(r for r in ranges if r[0] <= least and most <= r[1])
        values = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
    else:
        least, most = values.min(), values.max()
        types = (np.uint16, np.int16, np.int32, values.dtype)
        ranges = [(np.iinfo(t).min, np.iinfo(t).max) for t in types]
        low, high = next(r for r in ranges if r[0] <= least and most <= r[1])
    span = float(high) - float(low)
    scaled = (values.astype(np.float64) - float(low)) * (255.0 / span if span else 0.0)
    return np.rint(scaled).astype(np.uint8)


def picture_to_bgr(img: Image.Image) -> np.ndarray:
    """Bring a Pillow picture of any mode to BGR.

    Greyscale is repeated, transparency is laid over white, CMYK and others go through Pillow's
    conversion to RGB, and modes of more than 8 bits through :func:`scale_to_uint8`.

    Args:
        img (PIL.Image.Image): A loaded picture.

    Returns:
        np.ndarray: (H, W, 3), uint8, BGR.
    """
    if img.mode == 'F' or img.mode.startswith('I'):
        return cv2.cvtColor(scale_to_uint8(np.asarray(img)), cv2.COLOR_GRAY2BGR)
    if img.has_transparency_data:
        img = img.convert('RGBA')
        img = Image.alpha_composite(Image.new('RGBA', img.size, 'white'), img)
    return cv2.cvtColor(np.asarray(img.convert('RGB')), cv2.COLOR_RGB2BGR)


@TRANSFORMS.register_module()
class LoadPicture(BaseTransform):
    """Read a picture of any usual kind as 8-bit BGR, upright.

    Pillow decodes (jpg, png, webp, tiff, ...), of several frames the first. EXIF rotation is
    applied; for what becomes of greyscale, 16-bit, float, CMYK and transparent pictures see
    :func:`picture_to_bgr`. Pillow's guard against decompression bombs holds: a picture of more
    than 2 x ``PIL.Image.MAX_IMAGE_PIXELS`` (about 179 million) counts as unreadable.

    An unreadable picture (missing, empty, truncated, no picture) gives a warning with its path and
    ``None``, for which mmengine's dataset takes another one. After :meth:`track`, which
    ``DataHealthHook`` calls, the warning comes once for each picture, whichever worker meets it,
    and too many unreadable pictures are an error.

    **Required Keys:** img_path (str), or img (np.ndarray, PIL.Image.Image) where the dataset
    holds the pixels itself; sample_idx (int), which mmengine's datasets give, to be counted.

    **Added Keys:** img (np.ndarray): (H, W, 3), BGR, uint8; img_shape and ori_shape
    (Tuple[int, int]): (H, W).

    Args:
        backend_args (dict, optional): Arguments of mmengine's file backend. Defaults to None,
            which chooses it by the path.
        channel_order (str): 'bgr' or 'rgb', the order in arrays that the dataset holds itself
            (mmpretrain's CIFAR holds 'rgb'). Defaults to 'bgr'.
        skip_bad (bool): True: an unreadable picture is left out. False: it is an error, as
            evaluation needs it (``DataHealthHook`` and ``PictureFolder`` see to that for
            datasets in test mode). Defaults to True.

    Raises:
        ValueError: If ``channel_order`` is neither.
    """

    def __init__(
        self,
        backend_args: dict | None = None,
        channel_order: str = 'bgr',
        skip_bad: bool = True,
    ) -> None:
        if channel_order not in ('bgr', 'rgb'):
            raise ValueError(f"channel_order must be 'bgr' or 'rgb', got {channel_order!r}.")
        self.backend_args = backend_args
        self.channel_order = channel_order
        self.skip_bad = skip_bad
        self.max_bad_share = 1.0
        self.bad_flags: torch.Tensor | None = None
        self._warned: set[str] = set()

    def track(self, num_samples: int, max_bad_share: float = 0.01) -> None:
        """Count unreadable pictures across all workers, from now on.

        To be called before the workers start. The flags are in shared memory: ``bad_flags``, uint8
        of shape (num_samples,), 1 for every sample that could not be read.

        Args:
            num_samples (int): Number of samples of the dataset, the range of 'sample_idx'.
            max_bad_share (float): Share of unreadable samples, 0 to 1, above which reading
                raises. One unreadable picture is always borne, so that a small set does not fail
                by its first, except with 0. That no picture is readable is always an error.
                Defaults to 0.01.

        Raises:
            ValueError: If ``num_samples`` < 1 or ``max_bad_share`` is outside 0 to 1.
        """
        if num_samples < 1:
            raise ValueError(f'num_samples must be >= 1, got {num_samples}.')
        if not 0 <= max_bad_share <= 1:
            raise ValueError(f'max_bad_share must be in [0, 1], got {max_bad_share}.')
        self.max_bad_share = max_bad_share
        if self.bad_flags is None or len(self.bad_flags) != num_samples:
            self.bad_flags = torch.zeros(num_samples, dtype=torch.uint8).share_memory_()

    def check_share(self, last_path: str) -> None:
        """Raise if more samples are flagged than may be.

        Args:
            last_path (str): The picture that was found unreadable last.

        Raises:
            BadPictureError: With count, share, limit and ``last_path``.
        """
        count, total = int(self.bad_flags.count_nonzero()), len(self.bad_flags)
        borne_alone = count == 1 and self.max_bad_share > 0 and total > 1
        if count == 0 or borne_alone:
            return
        if count / total > self.max_bad_share or count == total:
            raise BadPictureError(
                f'{count} of {total} pictures ({count / total:.2%}) cannot be read, more than the '
                f'{self.max_bad_share:.2%} that max_bad_share allows; the last one: {last_path}'
            )

    def transform(self, results: dict) -> dict | None:
        """Read the picture.

        Args:
            results (dict): With 'img_path' or 'img'.

        Returns:
            dict, optional: The same dict with the picture; None if it is unreadable.

        Raises:
            BadPictureError: If it is unreadable and ``skip_bad`` is False, or too many are.
            ValueError: If 'img' is given and is not a picture.
        """
        if results.get('img') is not None:
            img = self._convert_given(results['img'])
        else:
            img, error = self._try_read(results['img_path'])
            if error is not None:
                self._handle_bad(results, error)
                return None
        results['img'] = img
        results['img_shape'] = results['ori_shape'] = img.shape[:2]
        return results

    def _try_read(self, path: str) -> tuple[np.ndarray | None, Exception | None]:
        try:
            return self._read(path), None
        except MemoryError:
            raise
        except Exception as error:  # decoders raise anything when they meet a broken file
            return None, error

    def _read(self, path: str) -> np.ndarray:
        content = fileio.get(path, backend_args=self.backend_args)
        if not content:
            raise OSError('the file is empty')
        try:
            img = Image.open(io.BytesIO(content))
        except UnidentifiedImageError:
            raise OSError('the file is not a picture that Pillow knows') from None
        with img:
            img.load()
            return picture_to_bgr(upright(img))

    def _convert_given(self, img) -> np.ndarray:
        if isinstance(img, Image.Image):
            return picture_to_bgr(upright(img))
        shape, dtype = getattr(img, 'shape', ()), getattr(img, 'dtype', None)
        channels = 1 if len(shape) == 2 else shape[-1] if len(shape) == 3 else None
        if channels not in (1, 3) or 0 in shape or np.dtype(dtype).kind not in 'uif':
            raise ValueError(
                "results['img'] must be a picture: an array of shape (H, W), (H, W, 1) or "
                f'(H, W, 3), but got {type(img).__name__} of shape {tuple(shape)}, type {dtype}.'
            )
        img = img if dtype == np.uint8 else scale_to_uint8(img)
        if channels == 1:
            return cv2.cvtColor(img, cv2.COLOR_GRAY2BGR)
        return img if self.channel_order == 'bgr' else cv2.cvtColor(img, cv2.COLOR_RGB2BGR)

    def _handle_bad(self, results: dict, error: Exception) -> None:
        path = str(results['img_path'])
        reason = f'{path}: {type(error).__name__}: {error}'
        if not self.skip_bad:
            raise BadPictureError(f'Cannot read the picture {reason}') from error
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
            self.check_share(path)

    @staticmethod
    def warn(reason: str) -> None:
        """Log that a picture is left out.

        Args:
            reason (str): Its path, and what is wrong with it.
        """
        print_log(
            f'Unreadable picture, another one takes its place: {reason}',
            logger='current',
            level=logging.WARNING,
        )

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        # A deep copy or a plain pickle leaves shared memory, torch's own pickle does not.
        if self.bad_flags is not None:
            self.bad_flags.share_memory_()

    def __repr__(self) -> str:
        return (
            f'{self.__class__.__name__}(backend_args={self.backend_args}, '
            f"channel_order='{self.channel_order}', skip_bad={self.skip_bad})"
        )
