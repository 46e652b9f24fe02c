# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch

from mmmokd.analysis import linear_cka
from mmmokd.utils.errors import ConfigError


def random_features(n, channels, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, channels, generator=generator, dtype=torch.float64)


def gram(features):
    return [
        [sum(a * b for a, b in zip(x, y, strict=True)) for y in features.tolist()]
        for x in features.tolist()
    ]


def hsic_loop(k, ell):
    """tr(K H L H) with H = 1 - 1/n (Kornblith et al., eq. 3)."""
    n = len(k)

    def centered(m):
        rows = [sum(row) / n for row in m]
        columns = [sum(column) / n for column in zip(*m, strict=True)]
        mean = sum(rows) / n
        return [[m[i][j] - rows[i] - columns[j] + mean for j in range(n)] for i in range(n)]

    a, b = centered(k), centered(ell)
    return sum(a[i][j] * b[j][i] for i in range(n) for j in range(n))


def unbiased_loop(k, ell):
    """Song et al., eq. 5, of the kernels with a diagonal of 0."""
    n = len(k)
    k, ell = ([[m[i][j] * (i != j) for j in range(n)] for i in range(n)] for m in (k, ell))
    product = [[sum(k[i][m] * ell[m][j] for m in range(n)) for j in range(n)] for i in range(n)]
    total = sum(product[i][i] for i in range(n))
    total += sum(map(sum, k)) * sum(map(sum, ell)) / ((n - 1) * (n - 2))
    total -= 2 * sum(map(sum, product)) / (n - 2)
    return total / (n * (n - 3))


@pytest.mark.parametrize(('debiased', 'hsic'), [(False, hsic_loop), (True, unbiased_loop)])
def test_linear_cka_equals_loops(debiased, hsic):
    x = random_features(8, 3, 0) + 5
    y = torch.cat([x[:, :1] * 2, random_features(8, 3, 1)], dim=1)
    k, ell = gram(x), gram(y)
    expected = hsic(k, ell) / math.sqrt(hsic(k, k) * hsic(ell, ell))
    assert linear_cka(x, y, debiased) == pytest.approx(expected, rel=1e-9)


def test_same_and_unrelated_features():
    x = random_features(40, 60, 0)
    rotation = torch.linalg.qr(random_features(60, 60, 1))[0]
    for debiased in (False, True):
        assert linear_cka(x, 3 * x @ rotation + 1, debiased) == pytest.approx(1, abs=1e-9)
    unrelated = random_features(40, 60, 2)
    assert linear_cka(x, unrelated, debiased=False) > 0.5  # fewer images than channels
    assert abs(linear_cka(x, unrelated)) < 0.1
    assert math.isnan(linear_cka(x, random_features(1, 60, 3).float().repeat(40, 1)))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match=r'\(n, C\) and \(n, D\), but got \[\(5, 2\), \(6, 2\)\]'):
        linear_cka(torch.zeros(5, 2), torch.zeros(6, 2))
    with pytest.raises(ConfigError, match='at least 4 images, but got 3'):
        linear_cka(torch.zeros(3, 2), torch.zeros(3, 2))
