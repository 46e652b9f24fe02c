# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import copy
import pickle

import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate
from torch.utils.data import DataLoader, Dataset

from mmmokd.datasets import IndexedImages, NeighborBags
from mmmokd.utils.errors import ConfigError, DataError, MissingFileError

SIZE = 12
TABLE = np.stack([(np.arange(SIZE) + shift) % SIZE for shift in (1, 2, 3)], axis=1)


class Numbers(Dataset):
    """An image is its number, of which there are two views."""

    def __len__(self):
        return SIZE

    def __getitem__(self, index):
        return dict(inputs=[torch.tensor([index]), torch.tensor([100 + index])])


@pytest.fixture
def table(tmp_path):
    def write(array=TABLE, name='neighbors'):
        path = tmp_path / 'neighbors.npz'
        np.savez(path, **{name: array})
        return str(path)

    return write


def first_views(bags, num_workers=0, epochs=1):
    """Of all batches of some epochs, the numbers of the images and of the members of their bags."""
    loader = DataLoader(bags, 4, num_workers=num_workers, collate_fn=default_collate)
    found = []
    for epoch in range(epochs):
        bags.set_epoch(epoch)
        for batch in loader:
            first, second = batch['inputs']
            assert torch.equal(second, first + 100)
            found.append(first[:, 0].view(2, -1))
    return torch.cat(found, dim=1)


def test_batches_have_a_member_of_each_bag(table):
    bags = NeighborBags(Numbers(), table(), num_neighbors=2)
    assert len(bags) == SIZE
    torch.manual_seed(0)
    images, members = first_views(bags, epochs=8)
    assert images.tolist() == [*range(SIZE)] * 8
    counts = torch.bincount((members - images) % SIZE)
    assert len(counts) == 3 and counts[0] == 0 and min(counts[1:]) > 25  # of 96


@pytest.mark.parametrize('num_workers', [0, 2])
def test_members_follow_from_seed_and_epoch(num_workers, table):
    bags = NeighborBags(Numbers(), table(), num_neighbors=3)
    torch.manual_seed(0)
    images, members = first_views(bags, num_workers, epochs=2)
    again = copy.deepcopy(bags) if num_workers else pickle.loads(pickle.dumps(bags))
    torch.manual_seed(0)
    assert torch.equal(first_views(again, num_workers, epochs=2)[1], members)
    assert not torch.equal(*members.view(2, SIZE)) and torch.equal(*images.view(2, SIZE))


def test_numbers_of_kept_images_come_as_one_batch(table):
    bags = NeighborBags(IndexedImages(Numbers()), table(), num_neighbors=1)
    (batch,) = bags.__getitems__([4, 11])
    assert batch['inputs'].tolist() == [4, 11, 5, 0]


@pytest.mark.parametrize(
    ('array', 'message'),
    [
        (TABLE[:5], 'the neighbors of 5 images, up to number 7, but Numbers has 12 images'),
        (TABLE + 1, 'up to number 12, but Numbers has 12'),
        (TABLE[:, :1], '1 neighbors of each image, but num_neighbors of NeighborBags is 2'),
        (TABLE / 2, r'whole numbers of shape \(N, K\), but are float64 of shape \(12, 3\)'),
        (np.array([None]), 'is not a file of neighbors'),
    ],
)
def test_file_that_does_not_fit(array, message, table):
    with pytest.raises(DataError, match=f'{message}.*find_neighbors.py'):
        NeighborBags(Numbers(), table(array), num_neighbors=2)


def test_refuses(table, tmp_path):
    with pytest.raises(
        MissingFileError, match=r'none\.npz does not exist: .*find_neighbors\.py CONFIG'
    ):
        NeighborBags(Numbers(), str(tmp_path / 'none.npz'))
    with pytest.raises(DataError, match="an .npz with an array 'neighbors'"):
        NeighborBags(Numbers(), table(name='other'))
    with pytest.raises(ConfigError, match='num_neighbors .* but got 0'):
        NeighborBags(Numbers(), table(), num_neighbors=0)
