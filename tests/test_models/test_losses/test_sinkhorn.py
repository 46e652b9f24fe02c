# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from mmmokd.models.losses import sinkhorn_knopp


def plain_codes(scores, epsilon=0.05, num_iters=3):
    """The pseudo-code of SwAV (arXiv 2006.09882, appendix A), with loops in place of its products."""
    num_images, num_prototypes = scores.shape
    q = [[(scores[b, k] / epsilon).exp() for b in range(num_images)] for k in range(num_prototypes)]
    total = sum(map(sum, q))
    q = [[value / total for value in row] for row in q]
    for _ in range(num_iters):
        for k in range(num_prototypes):
            share = sum(q[k])
            q[k] = [value / share / num_prototypes for value in q[k]]
        for b in range(num_images):
            share = sum(row[b] for row in q)
            for row in q:
                row[b] = row[b] / share / num_images
    sums = [sum(row[b] for row in q) for b in range(num_images)]
    return torch.stack([torch.stack([row[b] / sums[b] for row in q]) for b in range(num_images)])


@pytest.mark.parametrize('case', [dict(), dict(epsilon=0.3, num_iters=1), dict(num_iters=6)])
def test_codes(case, float64):
    torch.manual_seed(0)
    scores = torch.rand(2, 5, 4) * 2 - 1
    expected = torch.stack([plain_codes(view, **case) for view in scores])
    torch.testing.assert_close(sinkhorn_knopp(scores, **case), expected, rtol=1e-12, atol=0)


def test_prototypes_get_equal_shares():
    codes = sinkhorn_knopp(torch.rand(12, 4), num_iters=200)
    torch.testing.assert_close(codes.sum(dim=0), torch.full((4,), 3.0))
    torch.testing.assert_close(codes.sum(dim=1), torch.ones(12))


def test_no_overflow_and_no_zero_share():
    """Exponentials may be infinite or zero; half precision is widened."""
    torch.manual_seed(0)
    scores = torch.rand(5, 4)
    for shift in (-90, 90):
        torch.testing.assert_close(
            sinkhorn_knopp(scores + shift), sinkhorn_knopp(scores), rtol=2e-3, atol=0
        )
    half = sinkhorn_knopp(torch.rand(4, 3).half().requires_grad_())
    assert half.dtype == torch.float32 and not half.requires_grad and half.isfinite().all()
