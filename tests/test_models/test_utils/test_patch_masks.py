# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import math
import random

import pytest
import torch

from mmmokd.models.utils import draw_patch_masks


def plain_block_mask(count, height, width, draw):
    """iBOT's `ImageFolderMask` (github.com/bytedance/ibot, loader.py), one image at a time."""
    mask, masked = torch.zeros(height, width, dtype=torch.bool), 0
    while masked < count:
        delta = 0
        for _ in range(10):
            area = draw.uniform((min(height, width) // 3) ** 2, count - masked)
            aspect = math.exp(draw.uniform(math.log(0.3), math.log(1 / 0.3)))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if w < width and h < height:
                top, left = draw.randint(0, height - h), draw.randint(0, width - w)
                added = h * w - int(mask[top : top + h, left : left + w].sum())
                if 0 < added <= count - masked:
                    mask[top : top + h, left : left + w] = True
                    delta = added
                    break
        if delta == 0:
            break
        masked += delta
    return mask


@pytest.mark.parametrize('grid', [(8, 8), (14, 10)])
def test_blocks_are_those_of_ibot(grid):
    """By the number of masked patches and of borders between masked and other patches."""
    torch.manual_seed(0)
    draw, n = random.Random(0), 300
    size = grid[0] * grid[1]
    masks = draw_patch_masks(n, grid, (0.4, 0.4), prob=1.0).view(n, *grid)
    plain = torch.stack([plain_block_mask(int(0.4 * size), *grid, draw) for _ in range(n)])
    for statistic in (
        lambda x: x.flatten(1).sum(dim=1),
        lambda x: (x[:, 1:] != x[:, :-1]).flatten(1).sum(dim=1),
        lambda x: (x[:, :, 1:] != x[:, :, :-1]).flatten(1).sum(dim=1),
        lambda x: x[:, 0].sum(dim=1),
    ):
        found, expected = statistic(masks).double(), statistic(plain).double()
        error = math.sqrt((found.var() + expected.var()) / n)
        assert abs(found.mean() - expected.mean()) < 4 * error + 1e-9
    assert masks.flatten(1).sum(dim=1).max() <= int(0.4 * size)


def test_shares_and_probability():
    torch.manual_seed(0)
    masks = draw_patch_masks(2000, (4, 5), (0.2, 0.6), prob=0.3, blocks=False)
    counts = masks.sum(dim=1)
    assert (counts > 0).double().mean() == pytest.approx(0.3, abs=0.04)
    assert sorted(set(counts.tolist())) == [0, *range(4, 12)]
    # Each patch as often as another.
    shares = masks[counts > 0].double().mean(dim=0)
    assert shares.min() > 0.3 and shares.max() < 0.45


@pytest.mark.parametrize('blocks', [True, False])
@pytest.mark.parametrize('grid', [(1, 1), (1, 4), (2, 2), (4, 4)])
def test_a_batch_has_a_masked_patch(grid, blocks):
    for seed in range(20):
        torch.manual_seed(seed)
        counts = draw_patch_masks(3, grid, (0.01, 0.3), prob=0.01, blocks=blocks).sum(dim=1)
        assert counts.max() >= 1
        torch.manual_seed(seed)
        again = draw_patch_masks(3, grid, (0.01, 0.3), prob=0.01, blocks=blocks).sum(dim=1)
        assert torch.equal(counts, again)
