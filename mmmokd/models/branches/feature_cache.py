# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Features of a backbone that does not change, kept on the disk for fixed views of every image."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mmmokd.structures import BackboneFeatures
from mmmokd.utils.atomic import atomic_write
from mmmokd.utils.errors import ConfigError, DataError, MissingFileError

META = 'features.json'
FORMAT = 1
DTYPES = ('float16', 'float32')
OPEN_SHARDS = 256  # files that are mapped at a time
WRITE_THEM = 'python tools/cache_features.py CONFIG BRANCH writes them'
# Of a backbone's config: what has no part in the features of an evaluation.
NOT_OF_THE_FEATURES = (
    *('init_cfg', 'pretrained', 'checkpoint_path'),
    *('frozen_stages', 'drop_path_rate', 'norm_eval', 'with_cp'),
)


class PassShape(NamedTuple):
    """Shape of the features of one pass of the backbone, for each image.

    Attributes:
        views (int): Views of one size.
        pooled (int): Channels of the pooled feature.
        tokens (int): Tokens of a view's map; 0 if only pooled features are kept.
        channels (int): Channels of a token.
        grid (tuple[int, int]): The map's (h, w).
    """

    views: int
    pooled: int
    tokens: int
    channels: int
    grid: tuple[int, int]

    @property
    def size(self) -> int:
        """int: Numbers for each image."""
        return self.views * (self.pooled + self.tokens * self.channels)


class FeatureCache:
    """Features on the disk, of every image in each of its fixed draws of views.

    ``tools/cache_features.py`` writes a folder of them: ``features.json``, which says what they are
    of, and shards ``DRAW/SHARD.npy``, arrays of one row for each image, which are mapped into memory.
    A row holds, pass by pass, the pooled features and the tokens of the pass's views.

    Args:
        folder (str | Path): The folder.

    Raises:
        MissingFileError: If there are none.
        DataError: If they are of another format, or not complete.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        self.meta = read_meta(self.folder)
        self.passes = [PassShape(*each) for each in self.meta['passes']]
        lacks = missing_shards(self.folder, self.meta)
        if lacks:
            raise DataError(
                f'the features in {self.folder} are not complete: {len(lacks)} of '
                f'{num_shards(self.meta) * self.meta["num_draws"]} shards are missing. Start '
                'tools/cache_features.py again, it continues'
            )
        self._open = lru_cache(OPEN_SHARDS)(self._map)

    def _map(self, draw: int, shard: int) -> np.ndarray:
        return np.load(shard_path(self.folder, draw, shard), mmap_mode='r')

    def check(self, found: Mapping[str, Any]) -> None:
        """Refuse features that are of something else.

        Args:
            found (Mapping[str, Any]): What the run has, by name in ``features.json``.

        Raises:
            ConfigError: If something differs; names it, with both values.
        """
        found = json.loads(json.dumps(found))
        for key, value in found.items():
            if self.meta.get(key) != value:
                place, kept, has = _first_difference(key, self.meta.get(key), value)
                raise ConfigError(
                    f'the features in {self.folder} are of other {key}: expected {place} '
                    f'{_short(kept)}, but the run has {_short(has)}. Use what they were made with, or '
                    'write new ones into another folder (tools/cache_features.py)'
                )

    def read(
        self, data_samples: Sequence | None, like: Tensor, num_views: int
    ) -> list[BackboneFeatures]:
        """Read the features of a batch.

        Args:
            data_samples (Sequence, optional): One data sample per image, with ``sample_idx`` and
                ``view_draw``.
            like (Tensor): Whose device and type they are to have.
            num_views (int): How many views of each image, from the first, are wanted.

        Returns:
            list[BackboneFeatures]: By pass; pooled (V * B, C), tokens (V * B, N, C).

        Raises:
            ConfigError: If the samples do not say which views they are, or fewer views are kept.
        """
        rows = torch.from_numpy(self._rows(self._places(data_samples)))
        if like.is_cuda:
            rows = rows.pin_memory()
        rows = rows.to(like.device, non_blocking=True).to(like.dtype)
        found, start = [], 0
        for each in self.passes:
            if num_views <= 0:
                break
            found.append(_unpack(rows[:, start : start + each.size], each))
            start, num_views = start + each.size, num_views - each.views
        if num_views > 0:
            raise ConfigError(
                f'the features in {self.folder} are of {sum(each.views for each in self.passes)} views '
                f'of each image, {num_views} fewer than are read: write them for this branch'
            )
        return found

    def _places(self, data_samples: Sequence | None) -> list[tuple[int, int]]:
        """Draw and number of each image."""
        infos = [getattr(sample, 'metainfo', {}) for sample in data_samples or [None]]
        if not all('view_draw' in info and 'sample_idx' in info for info in infos):
            raise ConfigError(
                'a branch with a cache needs sample_idx and view_draw of every image, but the pipeline '
                f'gives {sorted(infos[0])}: let mmmokd.MultiCrop have num_draws='
                f'{self.meta["num_draws"]} and seed={self.meta["seed"]}, and PackInputs both names in '
                "meta_keys, as the package's own tools set them"
            )
        return [(int(info['view_draw']), int(info['sample_idx'])) for info in infos]

    def _rows(self, places: Sequence[tuple[int, int]]) -> np.ndarray:
        size = self.meta['images_per_shard']
        width = sum(each.size for each in self.passes)
        rows = np.empty((len(places), width), dtype=self.meta['dtype'])
        for row, (draw, index) in zip(rows, places, strict=True):
            row[:] = self._open(draw, index // size)[index % size]
        return rows


def read_meta(folder: Path) -> dict[str, Any]:
    """Read what features in a folder are of.

    Args:
        folder (Path): The folder.

    Returns:
        dict[str, Any]: ``features.json``.

    Raises:
        MissingFileError: If there is none.
        DataError: If it is of another format.
    """
    path = folder / META
    if not path.is_file():
        raise MissingFileError(f'no features in {folder} (no {META}): {WRITE_THEM}')
    try:
        meta = json.loads(path.read_text(encoding='utf-8'))
        version = meta['format']
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f'{path} does not describe features: {error!r}') from error
    if version != FORMAT:
        raise DataError(f'{path} is of format {version}, but expected {FORMAT}: {WRITE_THEM}')
    return meta


def num_shards(meta: Mapping[str, Any]) -> int:
    """Count the shards of one draw.

    Args:
        meta (Mapping[str, Any]): ``features.json``.

    Returns:
        int: Their number.
    """
    return -(-meta['num_images'] // meta['images_per_shard'])


def shard_path(folder: Path, draw: int, shard: int) -> Path:
    """Path of a shard.

    Args:
        folder (Path): The folder of the features.
        draw (int): Number of the draw.
        shard (int): Number of the shard in it.

    Returns:
        Path: The file.
    """
    return folder / f'{draw:03d}' / f'{shard:05d}.npy'


def missing_shards(folder: Path, meta: Mapping[str, Any]) -> list[tuple[int, int]]:
    """List the shards that are still to be written.

    Args:
        folder (Path): The folder of the features.
        meta (Mapping[str, Any]): ``features.json``.

    Returns:
        list[tuple[int, int]]: Draw and shard.
    """
    places = [(d, s) for d in range(meta['num_draws']) for s in range(num_shards(meta))]
    return [place for place in places if not shard_path(folder, *place).is_file()]


def write_shard(path: Path, rows: np.ndarray) -> None:
    """Write a shard that is whole or does not exist.

    Args:
        path (Path): The file; its folder is made.
        rows (np.ndarray): One row for each image.

    Raises:
        DataError: If a feature has no place in the type, as beyond 65,504 in float16.
        CannotWriteError: If it cannot be written.
    """
    if not np.isfinite(rows).all():
        raise DataError(
            f'{path}: features are not finite in {rows.dtype}: '
            + ('use --dtype float32' if rows.dtype == np.float16 else 'does the backbone diverge?')
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as part, open(part, 'wb') as file:
        np.save(file, rows)


def pack(passes: Sequence[BackboneFeatures], batch: int, with_tokens: bool) -> Tensor:
    """Put the features of a batch into rows.

    Args:
        passes (Sequence[BackboneFeatures]): By pass; pooled (V * B, C), tokens (V * B, N, C).
        batch (int): Number B of images.
        with_tokens (bool): Whether tokens are kept.

    Returns:
        Tensor: Shape (B, numbers for each image).
    """
    parts = []
    for features in passes:
        for values in (features.pooled, features.tokens)[: 1 + with_tokens]:
            parts.append(values.unflatten(0, (-1, batch)).transpose(0, 1).flatten(1))
    return torch.cat(parts, dim=1)


def _unpack(rows: Tensor, shape: PassShape) -> BackboneFeatures:
    sizes = (shape.views, shape.pooled), (shape.views, shape.tokens, shape.channels)
    split = rows.split([prod(size) for size in sizes], dim=1)
    pooled, tokens = (
        part.unflatten(1, size).transpose(0, 1).flatten(0, 1)
        for part, size in zip(split, sizes, strict=True)
    )
    return BackboneFeatures(pooled, tokens, tuple(shape.grid))


def describe_network(network: nn.Module) -> dict[str, Any]:
    """Say what a network's features are of: its backbone, with every weight, and its adapter.

    Args:
        network (BranchNetwork): A branch's network.

    Returns:
        dict[str, Any]: ``backbone``, its config as text, and ``weights``, a digest of them.
    """
    cfg = {k: v for k, v in network.backbone_cfg.items() if k not in NOT_OF_THE_FEATURES}
    digest = hashlib.sha256()
    for name, value in sorted(network.backbone.state_dict().items()):
        digest.update(f'{name} {tuple(value.shape)} {value.dtype}'.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    kind = type(network.adapter).__name__
    return dict(backbone=f'{sorted(cfg.items())!r}, {kind}', weights=digest.hexdigest()[:32])


def reads_tokens(network: nn.Module) -> bool:
    """Tell whether a neck of a network reads maps.

    Args:
        network (BranchNetwork): A branch's network.

    Returns:
        bool: Whether tokens have to be kept.
    """
    return any(getattr(getattr(network, n), 'reads_maps', False) for n in network.neck_names)


def _first_difference(place: str, kept: Any, found: Any) -> tuple[str, Any, Any]:
    """Place of the first difference of two values, lists or dicts, and the two there."""
    if isinstance(kept, list) and isinstance(found, list) and len(kept) == len(found):
        kept, found = dict(enumerate(kept)), dict(enumerate(found))
    if not (isinstance(kept, dict) and isinstance(found, dict)):
        return place, kept, found
    key = next(key for key in (*kept, *found) if kept.get(key) != found.get(key))
    return _first_difference(f'{place}.{key}', kept.get(key), found.get(key))


def _short(value: Any, limit: int = 200) -> str:
    text = repr(value)
    return text if len(text) <= limit else f'{text[:limit]} ...'
