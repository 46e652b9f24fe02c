# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Keep the features of a branch's backbone, for fixed views of every image of a training set."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.device import get_device
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import Subset

from mmmokd.datasets import MultiCrop, iter_transforms
from mmmokd.models.branches import Branch
from mmmokd.models.branches.feature_cache import (
    FORMAT,
    META,
    PassShape,
    describe_network,
    missing_shards,
    num_shards,
    pack,
    read_meta,
    reads_tokens,
    shard_path,
    write_shard,
)
from mmmokd.models.branches.loading import check_loaded
from mmmokd.models.branches.seen_views import group_by_size
from mmmokd.structures import BackboneFeatures
from mmmokd.utils.atomic import atomic_write
from mmmokd.utils.errors import CannotWriteError, ConfigError

SHARD_BYTES = 2**28
NUM_PROBED = 64  # images by which a data set is known again
PROBE_SIZE = (97, 131)  # of an image whose drawn views tell those of others
GIB = 2**30


def find_crop(dataset: Any) -> MultiCrop:
    """The transform of a training set that makes fixed views.

    Args:
        dataset (Dataset): The training set.

    Returns:
        MultiCrop: With ``num_draws``.

    Raises:
        ConfigError: If the training set is a wrapper of others, whose images have no number of their
            own, or has no such transform.
    """
    if not isinstance(dataset, BaseDataset):
        raise ConfigError(
            'features are kept by the number of an image in one dataset of mmengine, but '
            f'train_dataloader.dataset is a {type(dataset).__name__}'
        )
    crops = [each for each in iter_transforms(dataset) if isinstance(each, MultiCrop)]
    if len(crops) != 1 or crops[0].num_draws is None:
        raise ConfigError(
            'features are kept of fixed views, but the pipeline of train_dataloader.dataset has no '
            'mmmokd.MultiCrop with num_draws'
        )
    return crops[0]


def describe_data(dataset: Any, preprocessor: nn.Module) -> dict[str, Any]:
    """Say what views features are of: of which images, cut how, normalized how.

    Args:
        dataset (Dataset): The training set; images are not decoded.
        preprocessor (nn.Module): The model's data preprocessor.

    Returns:
        dict[str, Any]: By name in ``features.json``.

    Raises:
        ConfigError: See :func:`find_crop`.
    """
    crop = find_crop(dataset)
    digest = hashlib.sha256()
    for index in np.linspace(0, len(dataset) - 1, min(NUM_PROBED, len(dataset))).astype(int):
        info = dataset.get_data_info(int(index))
        if isinstance(info.get('img'), np.ndarray):
            digest.update(np.ascontiguousarray(info['img']))
        path = str(info.get('img_path') or '')
        digest.update(Path(path).name.encode())
        if Path(path).is_file():
            digest.update(str(Path(path).stat().st_size).encode())
    drawn = crop.sampler.draw([PROBE_SIZE], crop.fixed_generator(0, 0))
    views = hashlib.sha256(b''.join(np.ascontiguousarray(field).tobytes() for field in drawn))
    statistics = {
        name: getattr(preprocessor, name).flatten().tolist()
        for name in ('mean', 'std')
        if isinstance(getattr(preprocessor, name, None), Tensor)
    }
    return dict(
        num_images=len(dataset),
        num_draws=crop.num_draws,
        seed=crop.seed,
        views=[vars(group) for group in crop.groups],
        drawn=views.hexdigest()[:32],
        images=digest.hexdigest()[:32],
        normalization=dict(
            statistics, swaps_channels=bool(getattr(preprocessor, '_channel_conversion', False))
        ),
    )


class FeatureWriter:
    """Writes the features of a branch's backbone; continues what was stopped.

    Args:
        runner (Runner): With the model, its weights loaded, and a config whose pipeline makes fixed
            views.
        branch (str): Name of the branch: ``frozen``, or its backbone is.
        folder (str | Path): Folder to write to.
        dtype (str): ``'float16'`` or ``'float32'``. Defaults to ``'float16'``.

    Raises:
        ConfigError: If the branch learns, does not exist, or the folder has features of something
            else.
        CannotWriteError: If the disk has too little space.
    """

    def __init__(
        self, runner: Runner, branch: str, folder: str | Path, dtype: str = 'float16'
    ) -> None:
        self.runner = runner
        self.folder = Path(folder).expanduser()
        self.branch = find_frozen(runner.model, branch)
        check_loaded(self.branch.network(), self.branch.frozen)
        self.network = self.branch.network('teacher').eval()
        self.with_tokens = reads_tokens(self.network)
        self.dataset = runner.train_dataloader.dataset
        self.crop = find_crop(self.dataset)
        self.meta = dict(
            format=FORMAT,
            dtype=dtype,
            **describe_network(self.network),
            **describe_data(self.dataset, runner.model.data_preprocessor),
        )
        self.meta.update(self._shapes(np.dtype(dtype).itemsize))
        self._begin()

    def _shapes(self, itemsize: int) -> dict[str, Any]:
        """Shapes of the features, by one image, and the size of a shard."""
        (batch,) = self._batches(0, range(1))
        passes = self._run(batch)
        shapes = []
        for group, found in zip(self._groups(batch), passes, strict=True):
            tokens, channels = found.tokens.shape[1:] if self.with_tokens else (0, 0)
            grid = found.grid if self.with_tokens else (0, 0)
            shapes.append(PassShape(len(group), found.pooled.shape[1], tokens, channels, grid))
        self.row_bytes = sum(each.size for each in shapes) * itemsize
        per_shard = max(1, min(SHARD_BYTES // self.row_bytes, len(self.dataset)))
        return dict(passes=[list(each) for each in shapes], images_per_shard=per_shard)

    @property
    def num_bytes(self) -> int:
        """int: What all features take on the disk."""
        return self.row_bytes * self.meta['num_images'] * self.meta['num_draws']

    def _begin(self) -> None:
        """Check the folder and the disk, and say what is to come."""
        meta = json.loads(json.dumps(self.meta))
        if (self.folder / META).is_file():
            kept = read_meta(self.folder)
            differ = [key for key, value in kept.items() if meta.get(key) != value]
            if differ == ['num_draws'] and kept['num_draws'] < meta['num_draws']:
                differ = []  # more of the same
            if differ:
                raise ConfigError(
                    f'{self.folder} has features of other {", ".join(differ)}: name another folder by '
                    '--out, or remove it'
                )
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = len(missing_shards(self.folder, meta))
        share = missing / (num_shards(meta) * meta['num_draws'])
        free = shutil.disk_usage(self.folder).free
        if self.num_bytes * share > free:
            raise CannotWriteError(
                f'the features need {self.num_bytes * share / GIB:.1f} GiB, but {self.folder} has '
                f'{free / GIB:.1f} GiB free: take fewer draws, or name another folder by --out'
            )
        with atomic_write(self.folder / META) as part:
            part.write_text(json.dumps(meta, indent=1), encoding='utf-8')

    def write(self, note: Callable[[str], None] = print) -> float:
        """Write all shards that are missing.

        Args:
            note (Callable): Takes a line for each draw. Defaults to print.

        Returns:
            float: Images per second, each draw counted; 0 if nothing was missing.
        """
        missing = missing_shards(self.folder, self.meta)
        size, total = self.meta['images_per_shard'], self.meta['num_images']
        start, count = time.perf_counter(), 0
        for draw in range(self.meta['num_draws']):
            shards = [shard for each, shard in missing if each == draw]
            indices = [i for s in shards for i in range(s * size, min((s + 1) * size, total))]
            rows: list[np.ndarray] = []
            for batch in self._batches(draw, indices) if indices else ():
                rows += [self._rows(batch)]
                count += len(rows[-1])
                while shards and sum(map(len, rows)) >= (n := min(size, total - shards[0] * size)):
                    merged = np.concatenate(rows)
                    write_shard(shard_path(self.folder, draw, shards.pop(0)), merged[:n])
                    rows = [merged[n:]]
            note(f'draw {draw + 1} of {self.meta["num_draws"]}: {len(indices)} images')
        return count / (time.perf_counter() - start) if count else 0.0

    def _rows(self, batch: Mapping[str, Any]) -> np.ndarray:
        passes = self._run(batch)
        packed = pack(passes, len(batch['inputs'][0]), self.with_tokens)
        return packed.float().cpu().numpy().astype(self.meta['dtype'])

    def _batches(self, draw: int, indices: Sequence[int]) -> Iterator[Mapping[str, Any]]:
        """Batches of a draw, on the device."""
        self.crop.set_epoch(draw)
        cfg = dict(self.runner.cfg.train_dataloader, dataset=Subset(self.dataset, indices))
        cfg.update(sampler=dict(type='DefaultSampler', shuffle=False), drop_last=False)
        cfg.update(persistent_workers=False, batch_size=min(cfg['batch_size'], len(indices)))
        for batch in Runner.build_dataloader(cfg):
            yield self.runner.model.data_preprocessor(batch, training=True)

    def _groups(self, batch: Mapping[str, Any]) -> list[list[Tensor]]:
        """The views that the branch sees in training, by pass."""
        views, num_globals = batch['inputs'], self.runner.model.num_global_views
        return group_by_size(views[:num_globals], () if self.branch.frozen else views[num_globals:])

    @torch.no_grad()
    def _run(self, batch: Mapping[str, Any]) -> list[BackboneFeatures]:
        with precision_of(self.runner.cfg):
            return [self.network.extract(torch.cat(list(group))) for group in self._groups(batch)]


def find_frozen(model: nn.Module, name: str) -> Branch:
    """A branch of a model whose backbone does not change.

    Args:
        model (nn.Module): An algorithm with branches.
        name (str): Name of the branch.

    Returns:
        Branch: The branch.

    Raises:
        ConfigError: If it does not exist, or its backbone learns.
    """
    branches = getattr(model, 'branches', {})
    if name not in branches:
        raise ConfigError(f'the model has no branch {name!r}, but {", ".join(branches) or "none"}')
    branch = branches[name]
    if not (branch.frozen or branch.network().frozen_backbone):
        raise ConfigError(
            f'the backbone of branch {name} learns, so that its features do not last: set '
            f"model.branches.{name}.frozen to True or 'backbone'"
        )
    return branch


def precision_of(cfg: Mapping[str, Any]) -> AbstractContextManager:
    """The precision in which a config computes: that of its optimizer wrapper.

    Args:
        cfg (Mapping[str, Any]): A full config, prepared for the device.

    Returns:
        AbstractContextManager: ``torch.autocast``, or nothing.
    """
    wrapper = cfg.get('optim_wrapper') or {}
    dtype = wrapper.get('dtype')
    if 'Amp' not in str(wrapper.get('type')) and 'BFloat16' not in str(wrapper.get('type')):
        return nullcontext()
    return torch.autocast(get_device(), dtype=getattr(torch, dtype or 'float16'))


def check_cached_data(
    branches: Mapping[str, Branch], dataset: Any, preprocessor: nn.Module
) -> None:
    """Make sure that branches that read features read those of the views that a run makes.

    Args:
        branches (Mapping[str, Branch]): By name; those without a cache are passed over.
        dataset (Dataset): The training set.
        preprocessor (nn.Module): The model's data preprocessor.

    Raises:
        MissingFileError: If there are no features.
        ConfigError: If they are of other views; names what differs.
    """
    cached = [branch for branch in branches.values() if branch.cache]
    if not cached:
        return
    for branch in cached:  # first whether there are any
        branch.features  # noqa: B018
    found = describe_data(dataset, preprocessor)
    for branch in cached:
        branch.features.check(found)
