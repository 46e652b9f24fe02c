# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from mmmokd.utils import stratified_share

LABELS = np.repeat([3, 0, 7, 5], [1, 60, 149, 4])[np.random.RandomState(1).permutation(214)]


def counts(indices):
    return {label: int((LABELS[indices] == label).sum()) for label in (0, 3, 5, 7)}


@pytest.mark.parametrize(
    ('share', 'kwargs', 'expected'),
    [
        (0.1, {}, {0: 6, 3: 1, 5: 1, 7: 15}),
        (0.1, dict(min_per_class=0), {0: 6, 3: 0, 5: 0, 7: 15}),
        (0.01, dict(min_per_class=3), {0: 3, 3: 1, 5: 3, 7: 3}),
        (0.9, dict(min_left=1), {0: 54, 3: 0, 5: 3, 7: 134}),
        (1.0, {}, {0: 60, 3: 1, 5: 4, 7: 149}),
    ],
)
def test_share_of_every_class(share, kwargs, expected):
    indices = stratified_share(LABELS, share, **kwargs)
    assert counts(indices) == expected
    assert len(set(indices.tolist())) == len(indices) and (np.diff(indices) > 0).all()


def test_seed_decides_and_shares_are_nested():
    drawn = [stratified_share(LABELS, share, seed=4) for share in (0.1, 0.1, 0.3)]
    assert np.array_equal(drawn[0], drawn[1])
    assert set(drawn[0]) < set(drawn[2])
    assert not np.array_equal(drawn[0], stratified_share(LABELS, 0.1, seed=5))
    # What a seed draws is part of what a figure means: it may not change from version to version.
    assert stratified_share([0, 1] * 8, 0.25, seed=0).tolist() == [1, 6, 8, 9]


def test_every_image_is_as_likely():
    drawn = np.zeros(20)
    for seed in range(500):
        drawn[stratified_share([0] * 20, 0.25, seed)] += 1
    assert drawn.sum() == 2500 and abs(drawn - 125).max() < 45  # 4.6 standard deviations


@pytest.mark.parametrize('share', [0, -0.1, 1.5, float('nan')])
def test_bad_share(share):
    with pytest.raises(ValueError, match='above 0 and at most 1, but got'):
        stratified_share([0, 1], share)


def test_bad_count():
    with pytest.raises(ValueError, match='min_per_class=-1 and min_left=0'):
        stratified_share([0, 1], 0.5, min_per_class=-1)
