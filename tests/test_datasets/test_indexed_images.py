# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from array_dataset import PIXELS, Arrays
from mmengine.dataset import (
    ConcatDataset,
    DefaultSampler,
    RepeatDataset,
    default_collate,
)
from torch.utils.data import DataLoader, Subset

from mmmokd.datasets import IndexedImages, LabeledShare
from mmmokd.utils.errors import DataError


def test_all_images_once():
    images, labels = IndexedImages(Arrays()).read_images()
    assert torch.equal(images, torch.from_numpy(PIXELS).permute(0, 3, 1, 2))
    assert labels.tolist() == [0, 1, 2] * 4 and labels.dtype == torch.int64
    gray, _ = IndexedImages(Arrays(PIXELS[..., 0])).read_images()
    assert torch.equal(gray, images[:, :1].expand(-1, 3, -1, -1))
    assert IndexedImages(Arrays(more=dict(gt_label=None))).read_images()[1] is None


def test_wrappers():
    first = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)
    for wrapped, expected in (
        (RepeatDataset(Arrays(), 2), first.repeat(2, 1, 1, 1)),
        (ConcatDataset([Arrays(PIXELS[:5]), Arrays(PIXELS[5:])]), first),
        (Subset(Arrays(), [7, 3]), first[[7, 3]]),
    ):
        dataset = IndexedImages(wrapped)
        assert len(dataset) == len(expected) and isinstance(dataset.metainfo, dict)
        assert torch.equal(dataset.read_images()[0], expected)
    _, labels = IndexedImages(LabeledShare(Arrays(), 0.5, unlabeled=True)).read_images()
    assert sorted(labels.tolist()) == [-1] * 6 + [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize('num_workers', [0, 1])
def test_loader_gives_numbers_of_batches(num_workers):
    dataset = IndexedImages(Arrays())
    sampler = DefaultSampler(dataset, shuffle=True, seed=1)
    loader = DataLoader(dataset, 5, sampler=sampler, collate_fn=default_collate,
                        num_workers=num_workers)  # fmt: skip
    batches = [batch['inputs'] for batch in loader]
    assert [batch.shape for batch in batches] == [(1, 5), (1, 5), (1, 2)]
    assert torch.cat(batches, dim=1)[0].tolist() == list(sampler)
    assert dataset[3]['inputs'] == 3


@pytest.mark.parametrize(
    ('dataset', 'message'),
    [
        (
            lambda: Arrays([PIXELS[0], PIXELS[1][:4]]),
            r'one size, .* image 0 has \(5, 6\) and image 1',
        ),
        (lambda: Arrays(more=dict(img_path='a.png')), 'Arrays reads files'),
        (lambda: Arrays(pipeline=()), None),
        (lambda: Arrays(PIXELS.astype(np.float32), pipeline=()), 'is not an 8-bit array'),
        (lambda: Arrays(pipeline=[lambda results: [results]]), 'is not an 8-bit array'),
    ],
)
def test_what_cannot_be_kept(dataset, message):
    indexed = IndexedImages(dataset())
    if message is None:
        assert len(indexed.read_images()[0]) == 12
        return
    with pytest.raises(DataError, match=message):
        indexed.read_images()
