# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from itertools import combinations

import pytest
import torch

from mmmokd.models.heads import NTXentHead
from mmmokd.models.losses import nt_xent
from mmmokd.structures import Views


@pytest.mark.parametrize(('all_views', 'count'), [(False, 2), (True, 4)])
def test_pairs_of_views(all_views, count, float64):
    torch.manual_seed(0)
    features = torch.randn(4, 3, 5)
    views = Views([torch.zeros(3, 3, 8, 8)] * 2, [torch.zeros(3, 3, 4, 4)] * 2)
    head = NTXentHead('neck', temperature=0.2, all_views=all_views, loss_weight=0.3)
    loss = head.loss(dict(neck=features), None, views)
    pairs = [nt_xent(*pair, 0.2) for pair in combinations(features[:count], 2)]
    torch.testing.assert_close(loss, 0.3 * sum(pair.loss for pair in pairs) / len(pairs))
    assert head.metrics['accuracy'] == sum(pair.accuracy for pair in pairs) / len(pairs)
    assert head.teacher == 'none'


def test_what_it_refuses():
    with pytest.raises(ValueError, match='two views of an image, but a branch sees 1 global view'):
        NTXentHead()(torch.ones(1, 4, 2))
    with pytest.raises(ValueError, match='temperature of NTXentHead must be a positive number'):
        NTXentHead(temperature=0)
