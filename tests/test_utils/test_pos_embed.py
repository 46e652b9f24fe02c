# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch.nn import functional as F

from mmmokd.utils.pos_embed import resize_pos_embed_2d


def cubic(distance, a=-0.75):
    """Keys' kernel, with the coefficient that PyTorch has."""
    x = abs(distance)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def resized_line(values, wanted, scale):
    """Samples at (i + 1/2) / scale - 1/2, with the ends repeated."""
    line = []
    for i in range(wanted):
        at = (i + 0.5) / scale - 0.5
        first = int(at // 1) - 1
        line.append(
            sum(
                cubic(at - j) * values[min(max(j, 0), len(values) - 1)]
                for j in range(first, first + 4)
            )
        )
    return line


def resized_by_hand(grid, wanted, scales):
    """A nested list (h, w), resized along w, then along h."""
    rows = [resized_line(row, wanted[1], scales[1]) for row in grid]
    columns = [
        resized_line(list(column), wanted[0], scales[0]) for column in zip(*rows, strict=True)
    ]
    return [list(row) for row in zip(*columns, strict=True)]


@pytest.mark.parametrize('offset', [0.1, None])
@pytest.mark.parametrize(
    ('made_for', 'wanted'),
    [
        ((14, 14), (6, 6)),
        ((7, 7), (3, 3)),
        ((4, 5), (6, 3)),
        ((14, 14), (20, 14)),
        ((2, 2), (1, 1)),
    ],
)
def test_bicubic(made_for, wanted, offset, float64):
    """14 to 6 and 7 to 3 are what MOKD's local crops need."""
    torch.manual_seed(0)
    embed = torch.randn(1, made_for[0] * made_for[1], 2)
    found = resize_pos_embed_2d(embed, made_for, wanted, offset)
    assert found.shape == (1, wanted[0] * wanted[1], 2)
    scales = [(n + (offset or 0)) / m for n, m in zip(wanted, made_for, strict=True)]
    for d in range(2):
        expected = resized_by_hand(embed[0, :, d].reshape(made_for).tolist(), wanted, scales)
        torch.testing.assert_close(
            found[0, :, d].reshape(wanted), torch.tensor(expected), rtol=1e-10, atol=1e-12
        )
    maps = embed.reshape(1, *made_for, 2).permute(0, 3, 1, 2)
    by_torch = F.interpolate(
        maps, scale_factor=tuple(scales), mode='bicubic', recompute_scale_factor=False
    )
    torch.testing.assert_close(found[0].T.reshape(2, *wanted), by_torch[0], rtol=1e-10, atol=1e-12)


def test_grid_that_fits_and_extra_tokens():
    embed = torch.randn(1, 2 + 12, 4)
    assert resize_pos_embed_2d(embed, (3, 4), (3, 4), 0.1, num_extra_tokens=2) is embed
    found = resize_pos_embed_2d(embed, (3, 4), (5, 2), 0.1, num_extra_tokens=2)
    assert found.shape == (1, 12, 4)
    assert torch.equal(found[:, :2], embed[:, :2])
    assert torch.equal(found[:, 2:], resize_pos_embed_2d(embed[:, 2:], (3, 4), (5, 2), 0.1))


def test_gradient_reaches_the_embedding(float64):
    embed = torch.randn(1, 9, 2, requires_grad=True)
    assert torch.autograd.gradcheck(lambda e: resize_pos_embed_2d(e, (3, 3), (2, 2), 0.1), embed)


def test_embedding_that_does_not_fit():
    with pytest.raises(ValueError, match='3x4 grid and 1 extra tokens has 13 tokens, .* has 12'):
        resize_pos_embed_2d(torch.zeros(1, 12, 4), (3, 4), (2, 2), 0.1, num_extra_tokens=1)
    with pytest.raises(ValueError, match=r'scale_offset=1.0 gave \(4, 4\), not \(3, 3\)'):
        resize_pos_embed_2d(torch.zeros(1, 4, 4), (2, 2), (3, 3), 1.0)
