# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Locality of a checkpoint's networks: attention distance and effective receptive field."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.logging import print_log
from mmengine.registry import DefaultScope
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from mmmokd.analysis import attention_distance, effective_receptive_field, watch_attention
from mmmokd.models.branches import BranchNetwork
from mmmokd.models.branches.adapters import TokenAdapter, count_extra_tokens
from mmmokd.registry import DATASETS, MODELS
from mmmokd.utils.errors import CheckpointError, ConfigError, DataError
from mmmokd.utils.state_dict import name_some
from mmmokd.weights import (
    WeightFile,
    backbone_prefix,
    describe_contents,
    list_branches,
    load_backbone,
    read_weights,
    select_weights,
)

from .batches import read_inputs
from .networks import has_branches
from .pipeline import evaluation_pipeline

# Layers of XCiT, DaViT and EdgeNeXt in mmpretrain and timm. By the shape of their weights they could
# be taken for attention over as many places as a head has channels.
OVER_CHANNELS = re.compile('XCA|Channel.*Attention|CrossCovarianceAttn')


class Locality(NamedTuple):
    """Measurements of one network; see :func:`measure_locality`.

    Attributes:
        image_size (tuple[int, int]): The (H, W) of the images, in pixels.
        grid (tuple[int, int]): The last map's (h, w).
        distances (list[Tensor]): Of each layer whose attention is over the last map's places, the
            attention distance of each head in pixels, shape (heads, ), float64, mean over images.
            Empty for a CNN.
        field (Tensor): Effective receptive field of the map's center, mean over images, of sum 1,
            shape (H, W), float64.
        pooled (Tensor): Pooled features of the images, shape (N, C), float32.
    """

    image_size: tuple[int, int]
    grid: tuple[int, int]
    distances: list[Tensor]
    field: Tensor
    pooled: Tensor


def measure_locality(network: BranchNetwork, batches: Sequence[Tensor], seed: int = 0) -> Locality:
    """Measure attention distance and effective receptive field of a network.

    The map's places are taken to cover the image evenly. Where a ViT pads images to whole patches,
    its patches lie a little farther apart.

    Args:
        network (BranchNetwork): In evaluation mode.
        batches (Sequence[Tensor]): Images as the network takes them, each (B, 3, H, W), of one size.
        seed (int): Of the receptive field's random directions. Defaults to 0.

    Returns:
        Locality: Means over all images.

    Raises:
        ConfigError: If the last map does not depend on the images.
    """
    device = next(network.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    image_size = tuple(batches[0].shape[-2:])
    with torch.no_grad():
        grid = tuple(network.extract(batches[0][:1].to(device)).grid)
    layers = _LayerDistances(grid, image_size, _count_leading(network))
    field, pooled = torch.zeros(image_size, dtype=torch.float64), []

    def to_map(images: Tensor) -> Tensor:
        return network.extract(images).tokens.transpose(1, 2).unflatten(2, grid)

    for images in batches:
        images = images.to(device)
        with torch.no_grad(), layers.watch(len(images)):
            pooled.append(network.extract(images).pooled.float().cpu())
        field += len(images) * effective_receptive_field(to_map, images, generator=generator)
    if layers.seen and not layers.totals:
        print_log(
            f'{type(network.backbone).__name__}: none of its {layers.seen} attentions is over the '
            f'{grid[0]}x{grid[1]} places of its last map, so that it has no attention distance',
            'current',
        )
    num_images = sum(map(len, pooled))
    distances = [total / num_images for total in layers.totals]
    return Locality(image_size, grid, distances, field / field.sum(), torch.cat(pooled))


def _count_leading(network: BranchNetwork) -> int | None:
    """Tokens in front of the map's; None where attention is not one of such tokens."""
    if any(OVER_CHANNELS.match(type(module).__name__) for module in network.backbone.modules()):
        return None
    adapter = network.adapter
    if isinstance(adapter, TokenAdapter):
        leads = adapter.position == 'first' or not adapter.num_extra_tokens
        return adapter.num_extra_tokens if leads else None
    return count_extra_tokens(network.backbone)[0]


class _LayerDistances:
    """Attention distances of layers, summed over images.

    Args:
        grid (tuple[int, int]): The last map's (h, w).
        image_size (tuple[int, int]): The (H, W) of the images, in pixels.
        num_extra (int, optional): Class and register tokens in front of the map's; None if no
            attention is to be read.
    """

    def __init__(
        self, grid: tuple[int, int], image_size: tuple[int, int], num_extra: int | None
    ) -> None:
        self.grid, self.image_size, self.num_extra = grid, image_size, num_extra
        self.totals: list[Tensor] = []  # by layer, (heads, )
        self.seen = 0  # attentions of the last pass, of all kinds

    @contextmanager
    def watch(self, batch: int) -> Iterator[None]:
        """Add the layers of one pass of ``batch`` images."""
        found: list[Tensor] = []
        self.seen = 0

        def read(weights: Tensor) -> None:
            self.seen += 1
            if self.num_extra is None or weights.ndim != 4:
                return
            if weights.shape[-2] != weights.shape[-1]:
                return  # of a class token to a map, or from one map to another
            extra = weights.shape[-1] - self.grid[0] * self.grid[1]
            if len(weights) == batch and extra in (0, self.num_extra):  # else of windows
                distances = attention_distance(weights, self.grid, self.image_size, extra)
                found.append(distances.double().sum(dim=0).cpu())

        with watch_attention(read):
            yield
        if not self.totals:
            self.totals = [torch.zeros_like(each) for each in found]
        for total, each in zip(self.totals, found, strict=True):
            total += each


def build_model(cfg: Config) -> nn.Module:
    """Build a config's model, without weights, for :func:`load_networks`.

    Args:
        cfg (Config): A config of a model with branches.

    Returns:
        nn.Module: The model.

    Raises:
        ConfigError: If it has no branches.
    """
    model_cfg = dict(cfg.model)
    model_cfg.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmpretrain'):
        model = MODELS.build(model_cfg)
    if not has_branches(model):
        raise ConfigError(
            f'locality is that of the branches of a model, but {type(model).__name__} of '
            f'{cfg.filename or "the config"} has none'
        )
    return model


def read_backbones(path: str | Path) -> WeightFile:
    """Read a checkpoint, and keep of its branches the backbones only, which spares memory.

    Args:
        path (str | Path): The file.

    Returns:
        WeightFile: For :func:`load_networks`.

    Raises:
        MissingFileError: If there is no such file.
        CheckpointError: If it cannot be read, or has no branches.
    """
    file = read_weights(path)
    prefixes = tuple(
        backbone_prefix(branch, network)
        for branch, networks in list_branches(file.weights).items()
        for network in networks
    )
    if not prefixes:
        raise CheckpointError(
            f'checkpoint {path} has no branches to measure. {describe_contents(file)}'
        )
    kept = {key: value for key, value in file.weights.items() if key.startswith(prefixes)}
    return file._replace(weights=kept)


def load_networks(
    model: nn.Module, file: WeightFile, networks: Sequence[str] = ('teacher',)
) -> Iterator[tuple[str, BranchNetwork]]:
    """Load the backbones that a checkpoint has, one after another.

    Of the weights only those of backbones are read, so that the checkpoint may be of one branch that
    was trained alone, or of another algorithm with the same branches.

    Args:
        model (nn.Module): Of :func:`build_model`. Its backbones are overwritten.
        file (WeightFile): The checkpoint, from :func:`read_backbones`.
        networks (Sequence[str]): ``'teacher'``, ``'student'`` or both; a branch that has only one
            of them gives that one, once. Defaults to ('teacher', ).

    Yields:
        tuple[str, BranchNetwork]: ``'{branch}.{network}'``, and the network, which is to be used
        before the next one is asked for.

    Raises:
        CheckpointError: If the checkpoint has none of the model's branches, or weights do not fit.
    """
    saved = list_branches(file.weights)
    names = [name for name in model.branches if name in saved]
    if not names:
        raise CheckpointError(
            f'{file.path} has none of the branches {", ".join(model.branches)} of the config. '
            f'{describe_contents(file)}'
        )
    _tell(f'{file.path} has no branch', [x for x in model.branches if x not in names], names)
    _tell(
        f'the config has, unlike {file.path}, no branch',
        [x for x in saved if x not in names],
        names,
    )
    for name in names:
        for network in dict.fromkeys(x if x in saved[name] else saved[name][0] for x in networks):
            found = model.branches[name].network(network)
            weights = select_weights(file, backbone_prefix(name, network))
            load_backbone(found.backbone, weights, f'{file.path} ({name}.{network})')
            yield f'{name}.{network}', found


def _tell(what: str, missing: list[str], measured: list[str]) -> None:
    if missing:
        said = f'{what} {" and ".join(missing)}: measured is {" and ".join(measured)} only'
        print_log(said, logger='current')


def build_images(cfg: Config, folder: str | None = None) -> Dataset:
    """Build the dataset of images to measure on.

    Args:
        cfg (Config): A config, of whose validation (or test) the images are.
        folder (str, optional): Folder of images, with or without class folders, to take instead, read
            by :func:`~mmmokd.evaluation.pipeline.evaluation_pipeline`. Defaults to None.

    Returns:
        Dataset: The images, each of one view.

    Raises:
        ConfigError: If the config has no validation set and no folder is given.
        DataError: If there are no images.
    """
    if folder is not None:
        cfg_dataset = dict(
            type='mmmokd.ImageFolder',
            data_root=folder,
            test_mode=True,
            pipeline=evaluation_pipeline(cfg),
        )
    else:
        loaders = [cfg.get(name) for name in ('val_dataloader', 'test_dataloader')]
        cfg_dataset = next((loader.get('dataset') for loader in loaders if loader), None)
    if cfg_dataset is None:
        raise ConfigError(
            f'{cfg.filename} has no validation images (val_dataloader or test_dataloader): give a '
            'folder of images, --data FOLDER'
        )
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmpretrain'):
        dataset = DATASETS.build(cfg_dataset)
    if not len(dataset):
        raise DataError(f'the dataset {type(dataset).__name__} has no images')
    return dataset


def read_images(
    model: nn.Module, dataset: Dataset, num_images: int, batch_size: int = 32
) -> list[Tensor]:
    """Read images as a model takes them.

    Args:
        model (nn.Module): The model, whose data preprocessor is used.
        dataset (Dataset): From :func:`build_images`.
        num_images (int): How many to take, evenly spaced over the dataset, so that they are of all
            classes; all, if there are fewer.
        batch_size (int): Images of a batch. Defaults to 32.

    Returns:
        list[Tensor]: Batches, each (B, 3, H, W), float32, on the CPU.

    Raises:
        ConfigError: If the images are not of one size.
    """
    count = min(num_images, len(dataset))
    indices = torch.linspace(0, len(dataset) - 1, count, dtype=torch.float64).round().long()
    loader = DataLoader(Subset(dataset, indices.tolist()), batch_size, collate_fn=_collate)
    return [read_inputs(model, batch).cpu() for batch in loader]


def _collate(samples: list[dict]) -> dict:
    sizes = {tuple(sample['inputs'].shape) for sample in samples}
    if len(sizes) > 1:
        raise ConfigError(
            f'images must be of one size, but the pipeline gives {name_some(sorted(map(str, sizes)))}:'
            ' end it with a CenterCrop'
        )
    return default_collate(samples)
