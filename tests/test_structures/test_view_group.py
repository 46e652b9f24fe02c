# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from dataclasses import FrozenInstanceError

import pytest

from mmmokd.structures import ViewGroup


@pytest.mark.parametrize(
    ('size', 'expected'), [(32, (32, 32)), ((24, 48), (24, 48)), ([24, 48], (24, 48))]
)
def test_size_is_height_and_width(size, expected):
    group = ViewGroup(size=size, scale=[0.5, 1.0])
    assert group.size == expected
    assert group == ViewGroup(size=expected, scale=(0.5, 1.0))
    with pytest.raises(FrozenInstanceError):
        group.size = 32


@pytest.mark.parametrize('size', [0, -3, 3.5, True, (4, 0), (4,), (4, 4, 4), (4.5, 4), '32', None])
def test_wrong_sizes(size):
    with pytest.raises(ValueError, match=r'size must be a whole number >= 1, or two: \(height'):
        ViewGroup(size=size, scale=(0.5, 1.0))


def test_groups_of_a_config():
    group = ViewGroup(size=16, scale=(0.5, 1.0), num=2)
    assert ViewGroup.from_configs([dict(size=16, scale=(0.5, 1.0), num=2), group]) == [group] * 2
    with pytest.raises(
        ValueError, match=r'groups\[1\]: flip must be a probability in \[0, 1\], got 2'
    ):
        ViewGroup.from_configs([group, dict(size=16, scale=(0.5, 1.0), flip=2)])
