# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import os.path as osp
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from mmmokd.registry import DATASETS
from mmmokd.utils.errors import ConfigError, DataError, MissingFileError

from .worker_generator import WorkerGenerator

TABLE = 'neighbors'  # the array's name in the file
TOOL = 'python tools/dataset_converters/find_neighbors.py CONFIG'


@DATASETS.register_module()
class NeighborBags(Dataset):
    """A dataset whose batches have, for each image, a member of its bag as well.

    A bag is an image's nearest neighbors in the space of a teacher, as `BINGO
    <https://arxiv.org/abs/2107.01691>`_ (section 3.2) draws positives from it. A batch of B images
    becomes one of 2 B: the images, then one member of each one's bag, drawn at random; members pass
    through the same pipeline. ``len`` and the sampler count images, as without bags.

    ``tools/dataset_converters/find_neighbors.py`` writes the file of neighbors, once for a teacher
    and a dataset. :class:`DataHealthHook` sets the epoch, so that a resumed run draws the same
    members.

    Args:
        dataset (Dataset | dict): The dataset or its config; the same images in the same order as
            those of the file.
        neighbors (str): The file, ``.npz``: an array ``neighbors``, shape (N, K), whole numbers, the
            nearest first.
        num_neighbors (int): How many of the K are a bag. Defaults to 5.
        lazy_init (bool): Whether to read dataset and file only when they are first used. Defaults
            to False.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it does not fit the dataset.
        ConfigError: If ``num_neighbors`` is below 1.

    Example:
        >>> train_dataloader = dict(
        ...     dataset=dict(
        ...         type='mmmokd.NeighborBags',
        ...         neighbors='work_dirs/neighbors.npz',
        ...         dataset=dict(type='CIFAR10', data_root='data/cifar10'),
        ...     )
        ... )
    """

    def __init__(
        self,
        dataset: Dataset | dict,
        neighbors: str,
        num_neighbors: int = 5,
        lazy_init: bool = False,
    ) -> None:
        if type(num_neighbors) is not int or num_neighbors < 1:
            raise ConfigError(
                'num_neighbors of NeighborBags must be a whole number of at least 1, but got '
                f'{num_neighbors!r}'
            )
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self.neighbors = neighbors
        self.num_neighbors = num_neighbors
        self.generator = WorkerGenerator()
        self._bags: torch.Tensor | None = None
        if not lazy_init:
            self.full_init()

    @property
    def metainfo(self) -> dict:
        """dict: Meta information of the dataset; empty if it has none."""
        return getattr(self.dataset, 'metainfo', {})

    def full_init(self) -> None:
        """Read the dataset and the file of neighbors."""
        if self._bags is not None:
            return
        if hasattr(self.dataset, 'full_init'):
            self.dataset.full_init()
        self._bags = self._read_bags()

    def set_epoch(self, epoch: int, stream: int | None = None) -> None:
        """Start new random numbers in all workers.

        Args:
            epoch (int): Number of the epoch, counted from 0.
            stream (int, optional): Sets apart several users of one run's seed. Defaults to None.
        """
        self.generator.set_epoch(epoch, stream)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        """An image alone, without a member of its bag.

        Args:
            index (int): Its number.

        Returns:
            dict: What the dataset gives.
        """
        return self.dataset[index]

    def __getitems__(self, indices: Sequence[int]) -> list:
        """Give the images of a batch, then a member of the bag of each; PyTorch's loader asks for it.

        Args:
            indices (Sequence[int]): B numbers, from the sampler.

        Returns:
            list: What the dataset gives, 2 B samples or, of :class:`IndexedImages`, their batch.
        """
        self.full_init()
        drawn = torch.randint(self.num_neighbors, (len(indices),), generator=self.generator.get())
        members = self._bags[torch.as_tensor(indices), drawn].tolist()
        both = [*indices, *members]
        if hasattr(self.dataset, '__getitems__'):
            return self.dataset.__getitems__(both)
        return [self.dataset[index] for index in both]

    def _read_bags(self) -> torch.Tensor:
        """The bags of all images, (N, num_neighbors), int64."""
        path = osp.abspath(osp.expanduser(self.neighbors))
        hint = f'{TOOL} makes the file, with the teacher of the config'
        if not osp.isfile(path):
            raise MissingFileError(f'the file of neighbors {path} does not exist: {hint}')
        try:
            with np.load(path, allow_pickle=False) as file:
                found = file[TABLE]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f'{path} is not a file of neighbors, an .npz with an array {TABLE!r}: {hint} '
                f'({type(error).__name__}: {error})'
            ) from error
        size = len(self.dataset)
        if found.ndim != 2 or found.dtype.kind not in 'iu':
            raise DataError(
                f'{TABLE} of {path} must be whole numbers of shape (N, K), but are {found.dtype} of '
                f'shape {found.shape}: {hint}'
            )
        if len(found) != size or (size and not 0 <= found.min() <= found.max() < size):
            raise DataError(
                f'{path} has the neighbors of {len(found)} images, up to number {found.max()}, but '
                f'{type(self.dataset).__name__} has {size} images: {hint}'
            )
        if found.shape[1] < self.num_neighbors:
            raise DataError(
                f'{path} has {found.shape[1]} neighbors of each image, but num_neighbors of '
                f'NeighborBags is {self.num_neighbors}: {hint}, and takes --num-neighbors'
            )
        return torch.from_numpy(found[:, : self.num_neighbors].astype(np.int64))
