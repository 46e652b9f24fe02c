# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from offline_testing import build, offline_cfg, plain_bingo, two_views

from mmmokd.models.selfsup.bingo import cutmix
from mmmokd.utils.errors import ConfigError


def test_step_matches_the_plain_formula(tmp_path, float64):
    """Of a batch of two images and two members of their bags."""
    model = build(
        offline_cfg('BINGO', tmp_path, heads=dict(bag=dict(queue_length=6, warmup_epochs=0)))
    )
    cnn, vit = model.branches['cnn'], model.branches['vit']
    first, second = two_views(4)
    negatives = cnn.heads['bag']['vit'].queue['teacher']
    torch.manual_seed(3)
    mixed, share = cutmix(first[:2], first[2:], 2.0)
    queries = [
        cnn.student.projector.mlp(cnn.student.extract(view).pooled)
        for view in (first[:2], first[2:], mixed)
    ]
    keys = [vit.teacher.extract(view).pooled for view in (second[:2], second[2:])]
    expected = plain_bingo(queries, keys, negatives, 0.5, share)
    torch.manual_seed(3)
    losses = model(two_views(4), mode='loss')
    assert 0 < share < 1 and list(losses) == ['cnn.loss_bag.vit']
    torch.testing.assert_close(losses['cnn.loss_bag.vit'], expected, rtol=1e-9, atol=0)


def test_cutmix():
    """One box of the others; its area is what the images lose."""
    images, others = torch.zeros(2, 3, 16, 12), torch.ones(2, 3, 16, 12)
    torch.manual_seed(0)
    shares = []
    for _ in range(200):
        mixed, share = cutmix(images, others, 2.0)
        share = float(share)
        assert float(1 - mixed.mean()) == pytest.approx(share, abs=1e-6)
        assert torch.equal(mixed[0], mixed[1])
        rows, columns = (mixed[0, 0].amax(dim=d).bool() for d in (1, 0))
        assert torch.equal(mixed[0, 0].bool(), rows[:, None] & columns)  # a box, or nothing
        shares.append(share)
    # Beta(2, 2) has the mean 0.5; what is cut off at the border is the images' again.
    assert 0.5 < sum(shares) / 200 < 0.75 and max(shares) > 0.9 and min(shares) < 0.3
    assert not images.any()


def test_refuses(tmp_path):
    with pytest.raises(ConfigError, match='cutmix_alpha of BINGO must be a positive number'):
        build(offline_cfg('BINGO', tmp_path, cutmix_alpha=0))
    for argument in (dict(views=[0, 1]), dict(cache='x', frozen='backbone')):
        with pytest.raises(
            ConfigError, match=f'branch cnn: BINGO takes no {next(iter(argument))}='
        ):
            build(offline_cfg('BINGO', tmp_path, student=argument))
    with pytest.raises(ConfigError, match='as mmmokd.NeighborBags makes it, but got 3 images'):
        build(offline_cfg('BINGO', tmp_path))(two_views(3), mode='loss')
