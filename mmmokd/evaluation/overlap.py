# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Images that are both in the bank and among the queries."""

import hashlib
import os
from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

# Official sets held in memory have a few pairs of equal images, which count in published numbers.
# Where more of the queries than this share are in the bank, the two are the same set, or parts.
SAME_PIXELS_SHARE = 0.1


class Overlap(NamedTuple):
    """Identities of the images of a bank and of queries.

    Attributes:
        bank (Tensor): A number for each image of the bank, shape (N, ), int64; equal where the
            image is the same file, -1 where it is among no other.
        queries (Tensor): The same of the queries, shape (Q, ).
    """

    bank: Tensor
    queries: Tensor

    @property
    def num_queries(self) -> int:
        """int: Number of queries that are in the bank."""
        return int((self.queries >= 0).sum())

    @property
    def num_bank(self) -> int:
        """int: Number of images of the bank that are queries."""
        return int((self.bank >= 0).sum())

    @property
    def most_copies(self) -> int:
        """int: How often the bank has the query that it has most often; 0 if it has none."""
        return int(self.bank[self.bank >= 0].bincount().max()) if self.num_bank else 0


def find_overlap(bank: Any, queries: Any) -> Overlap:
    """Find the images that a bank and queries share.

    Files are the same if their paths are, after links are resolved. Images that a dataset holds in
    memory are the same if their pixels are, but only where that holds for more than a tenth of the
    queries. Of datasets that do not tell what an image is read from, nothing is known.

    Args:
        bank (Dataset): The labeled images to learn from.
        queries (Dataset): The labeled images to be recognized.

    Returns:
        Overlap: By the index in each dataset.
    """
    of_bank, of_queries = _identities(bank), _identities(queries)
    shared = set(of_bank) & set(of_queries)
    pixels = {key for key in shared if isinstance(key, bytes)}
    if sum(key in pixels for key in of_queries) <= SAME_PIXELS_SHARE * len(of_queries):
        shared -= pixels
    numbers = {key: number for number, key in enumerate(sorted(shared - {None}, key=repr))}

    def number(identities: list[Hashable]) -> Tensor:
        return torch.tensor([numbers.get(key, -1) for key in identities], dtype=torch.long)

    return Overlap(number(of_bank), number(of_queries))


def _identities(dataset: Any) -> list[Hashable]:
    """Identify each image: by a path, a hash of pixels (bytes), or None."""
    found: list[Hashable] = []
    for index in range(len(dataset)):
        info = read_info(dataset, index) or {}
        path, img = info.get('img_path'), info.get('img')
        if isinstance(path, str | os.PathLike):
            found.append(os.fspath(path))
        elif isinstance(img, np.ndarray):
            found.append(hashlib.sha1(f'{img.shape}{img.dtype}'.encode() + img.tobytes()).digest())
        else:
            found.append(None)
    resolver = _Resolver()
    return [resolver.resolve(key) if isinstance(key, str) else key for key in found]


def read_info(dataset: Any, index: int) -> dict | None:
    """Look up what a dataset knows of an image before it is read.

    Args:
        dataset (Dataset): One of mmengine, or torch's ``Subset`` or ``ConcatDataset`` of such.
        index (int): Of the image.

    Returns:
        dict | None: With 'img_path' or 'img', and 'gt_label'; None if the dataset does not tell.
    """
    if hasattr(dataset, 'get_data_info'):
        return dataset.get_data_info(index)
    if isinstance(dataset, Subset):
        return read_info(dataset.dataset, int(dataset.indices[index]))
    if isinstance(dataset, ConcatDataset):
        part = int(np.searchsorted(dataset.cumulative_sizes, index, side='right'))
        start = dataset.cumulative_sizes[part - 1] if part else 0
        return read_info(dataset.datasets[part], index - start)
    return None


class _Resolver:
    """Resolves links; asks the file system once for each folder, not for each of its files."""

    def __init__(self) -> None:
        self._folders: dict[str, tuple[str, set[str]]] = {}

    def resolve(self, path: str) -> str:
        if '://' in path:
            return path
        folder, name = os.path.split(path)
        if folder not in self._folders:
            self._folders[folder] = self._read_folder(folder)
        real, links = self._folders[folder]
        return os.path.realpath(path) if name in links else os.path.join(real, name)

    @staticmethod
    def _read_folder(folder: str) -> tuple[str, set[str]]:
        """A folder without links, and the names of the links in it."""
        try:
            with os.scandir(folder or '.') as entries:
                links = {entry.name for entry in entries if entry.is_symlink()}
        except OSError:  # what is wrong with it is said when its images are read
            links = set()
        return os.path.realpath(folder or '.'), links
