# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from itertools import combinations

import pytest
import torch
from plain_dogo import plain_similarity_kl

from mmmokd.models.heads import SimilarityDistillationHead
from mmmokd.structures import Views


@pytest.mark.parametrize('num_views', [2, 3])
def test_pairs_of_global_views(num_views, float64):
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 3, 5), torch.randn(num_views, 3, 2)
    views = Views([torch.zeros(3, 3, 8, 8)] * num_views, [])
    head = SimilarityDistillationHead('own', temperature=0.2, loss_weight=7.0, target_reads='other')
    loss = head.loss(dict(own=student), dict(other=teacher), views)
    pairs = [*combinations(range(num_views), 2)]
    expected = sum(plain_similarity_kl(student[[v, w]], teacher[[v, w]], 0.2) for v, w in pairs)
    torch.testing.assert_close(loss, 7 * expected / len(pairs))


def test_what_it_refuses():
    with pytest.raises(ValueError, match='two global views, but a branch sees 1'):
        SimilarityDistillationHead()(torch.ones(1, 4, 2), torch.ones(1, 4, 2))
    with pytest.raises(ValueError, match="set teacher to 'own' or 'peers'"):
        SimilarityDistillationHead(teacher='none')
    with pytest.raises(ValueError, match='temperature of SimilarityDistillationHead'):
        SimilarityDistillationHead(temperature=-1)
