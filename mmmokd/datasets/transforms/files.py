# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Kinds of files, by content: opened by Pillow, with plugins where they are installed."""

import importlib
import io
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec

from mmengine import fileio
from PIL import Image, UnidentifiedImageError, features

from ..remote import is_remote, read_remote
from .pixels import check_pixels
from .tiff import TIFF_STARTS

# Endings of kinds that Pillow reads with a plugin: the module that registers it, and its name on
# PyPI.
PLUGINS = {
    **dict.fromkeys(('.heic', '.heif', '.hif'), ('pillow_heif', 'pillow-heif')),
    '.jxl': ('pillow_jxl', 'pillow-jxl-plugin'),
}
AVIF = '.avif'
RAW = (
    *('.3fr', '.arw', '.cr2', '.cr3', '.crw', '.dng', '.erf', '.iiq', '.nef', '.nrw', '.orf'),
    *('.pef', '.raf', '.raw', '.rw2', '.sr2', '.srw', '.x3f'),
)
# What else is found under an image's name, by its first bytes.
OTHER_KINDS = (
    (re.compile(rb'\s*<(!doctype html|html|head|body)', re.IGNORECASE), 'an HTML page'),
    (
        re.compile(rb'version https://git-lfs'),
        'a Git LFS pointer, not the file: run `git lfs pull`',
    ),
    (re.compile(rb'\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype )?svg', re.DOTALL), 'an SVG'),
    (re.compile(rb'%PDF-'), 'a PDF'),
    (re.compile(rb'\s*[{\[]"?'), 'JSON, perhaps the error of a server'),
    (re.compile(rb'PK\x03\x04'), 'a zip file'),
    (re.compile(rb'\x1f\x8b'), 'a gzip file'),
    (re.compile(rb'.{4}ftyp(qt|mp4|isom|M4V)', re.DOTALL), 'a film'),
    (re.compile(rb'\x00+$'), 'empty: all of its bytes are 0'),
)
AVIF_START = re.compile(rb'.{4}ftyp(avif|avis)', re.DOTALL)
HEIF_START = re.compile(rb'.{4}ftyp(heic|heix|hevc|hevx|heim|heis|mif1|msf1)', re.DOTALL)
JXL_START = re.compile(rb'\xff\x0a|\x00\x00\x00\x0cJXL ')
_guard = threading.Lock()
_registered = False


def has_plugin(ending: str) -> bool:
    """Check whether images of an ending can be read as far as plugins of Pillow go.

    Args:
        ending (str): As '.heic', in lower case.

    Returns:
        bool: False if a plugin is needed that is not installed.
    """
    if ending == AVIF:
        return features.check('avif')
    return ending not in PLUGINS or find_spec(PLUGINS[ending][0]) is not None


def how_to_read(ending: str) -> str | None:
    """Give advice on files that are images, by their ending, and cannot be read.

    Args:
        ending (str): As '.heic', in lower case.

    Returns:
        str, optional: A sentence; None if the ending is not known for images.
    """
    if ending in RAW:
        return 'raw images of cameras are not read: develop them, to jpg or tif for instance'
    if ending in PLUGINS and not has_plugin(ending):
        name = PLUGINS[ending][1]
        return f'{ending} is read where {name} is installed: pip install {name}'
    if ending == AVIF and not has_plugin(ending):
        return '.avif is read by Pillow 11.3 and later: pip install -U pillow'
    return None


def register_plugins() -> bool:
    """Let Pillow read what installed plugins read.

    Returns:
        bool: Whether there is a new one since the last call.
    """
    global _registered
    if _registered:
        return False
    _registered = True
    found = False
    if has_plugin('.heic'):
        importlib.import_module('pillow_heif').register_heif_opener()
        found = True
    if has_plugin('.jxl'):
        importlib.import_module('pillow_jxl')
        found = True
    return found


def read_file(path: str, backend_args: dict | None = None) -> bytes:
    """A file's content.

    Args:
        path (str): On a file system, or an address.
        backend_args (dict, optional): Arguments of mmengine's file backend. Defaults to None, which
            chooses it by the path.

    Returns:
        bytes: All of it.

    Raises:
        OSError: If it cannot be read, or is empty.
    """
    content = None
    if backend_args is None and is_remote(path):
        content = read_remote(path)
    if content is None:
        content = fileio.get(path, backend_args=backend_args)
    if not content:
        raise OSError('the file is empty')
    return content


def open_image(content: bytes, max_pixels: int | None) -> Image.Image | None:
    """Open an image without decoding it.

    Args:
        content (bytes): The file's.
        max_pixels (int, optional): The most pixels; None is no limit.

    Returns:
        PIL.Image.Image | None: The image; None of a TIFF that Pillow has no mode for.

    Raises:
        OSError: If it is not an image, or too large; names its kind, and what to do.
    """
    try:
        img = _open(content)
    except UnidentifiedImageError:
        if content.startswith(TIFF_STARTS):
            return None
        if not register_plugins():
            raise OSError(_what_it_is(content)) from None
        try:
            img = _open(content)
        except UnidentifiedImageError:
            raise OSError(_what_it_is(content)) from None
    check_pixels(img.width, img.height, max_pixels)
    return img


def _open(content: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content))
    except Image.DecompressionBombError:
        pass
    # The limit of this package has a name in the config, and is checked by who called.
    with _pillow_unlimited():
        return Image.open(io.BytesIO(content))


@contextmanager
def _pillow_unlimited() -> Iterator[None]:
    with _guard, warnings.catch_warnings():
        warnings.simplefilter('ignore', Image.DecompressionBombWarning)
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def decoding(img: Image.Image) -> AbstractContextManager:
    """Let Pillow decode an image that :func:`open_image` has let pass.

    Args:
        img (PIL.Image.Image): The image, opened.

    Returns:
        AbstractContextManager: In it Pillow's own limit does not hold, if the image exceeds it.
    """
    limit = Image.MAX_IMAGE_PIXELS
    large = limit is not None and img.width * img.height > limit
    return _pillow_unlimited() if large else nullcontext()


def _what_it_is(content: bytes) -> str:
    start = content[:256]
    for pattern, ending in ((HEIF_START, '.heic'), (JXL_START, '.jxl'), (AVIF_START, AVIF)):
        if pattern.match(start) and (hint := how_to_read(ending)):
            return f'it is a {ending[1:]} image; {hint}'
    for pattern, name in OTHER_KINDS:
        if pattern.match(start):
            return f'it is {name}, not an image'
    return 'the file is not an image that Pillow knows'
