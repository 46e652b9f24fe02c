# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
import torch

from mmmokd.analysis import effective_rank, feature_std, mutual_information, prototype_entropy


def random_probs(n=12, k=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, k, generator=generator, dtype=torch.float64).mul(3).softmax(dim=1)


def entropy_loop(probs):
    return -sum(p * math.log(p) for p in probs if p > 0)


def test_prototype_entropy_equals_loop():
    probs = random_probs()
    found = prototype_entropy(probs)
    mean = sum(entropy_loop(row) for row in probs.tolist()) / 12
    of_mean = entropy_loop([sum(column) / 12 for column in zip(*probs.tolist(), strict=True)])
    assert found.mean.item() == pytest.approx(mean, rel=1e-12)
    assert found.of_mean.item() == pytest.approx(of_mean, rel=1e-12)
    assert found.mean_share.item() == pytest.approx(mean / math.log(9), rel=1e-12)
    assert found.of_mean_share.item() == pytest.approx(of_mean / math.log(9), rel=1e-12)
    assert mutual_information(probs).item() == pytest.approx(of_mean - mean, rel=1e-12)


def test_entropy_of_the_two_collapses_and_of_health():
    uniform = torch.full((8, 16), 1 / 16)
    assert prototype_entropy(uniform).mean_share.item() == pytest.approx(1, abs=1e-6)
    assert mutual_information(uniform).item() == pytest.approx(0, abs=1e-6)
    constant = torch.eye(16)[3].repeat(8, 1)
    assert prototype_entropy(constant).of_mean.item() == 0
    assert mutual_information(constant).item() == 0
    distinct = torch.eye(16)
    assert prototype_entropy(distinct).mean.item() == 0
    assert prototype_entropy(distinct).of_mean_share.item() == pytest.approx(1, abs=1e-6)
    assert mutual_information(distinct).item() == pytest.approx(math.log(16), rel=1e-6)


def test_feature_std():
    generator = torch.Generator().manual_seed(0)
    isotropic = torch.randn(4000, 64, generator=generator)
    assert feature_std(isotropic).item() == pytest.approx(1, abs=0.02)
    assert feature_std(torch.rand(1, 64, generator=generator).repeat(10, 1)).item() < 1e-6
    features = torch.randn(30, 5, generator=generator, dtype=torch.float64)
    unit = features.numpy() / np.linalg.norm(features.numpy(), axis=1, keepdims=True)
    expected = unit.std(axis=0).mean() * math.sqrt(5)
    assert feature_std(features).item() == pytest.approx(expected, rel=1e-12)
    assert feature_std(features * 100).item() == pytest.approx(expected, rel=1e-12)


def test_effective_rank():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(30, 5, generator=generator, dtype=torch.float64)
    values = np.linalg.svd((features - features.mean(0)).numpy(), compute_uv=False)
    shares = values / values.sum()
    expected = math.exp(-(shares * np.log(shares)).sum())
    assert effective_rank(features).item() == pytest.approx(expected, rel=1e-10)
    # Three orthogonal directions of the same strength, and a mean that is not counted.
    directions = torch.eye(10)[:3].repeat(2, 1) * torch.tensor([1, 1, 1, -1, -1, -1])[:, None]
    assert effective_rank(directions + 7).item() == pytest.approx(3, rel=1e-5)
    line = torch.linspace(-1, 1, 20)[:, None] * torch.ones(1, 10)
    assert effective_rank(line).item() == pytest.approx(1, abs=1e-2)


def test_effective_rank_of_constant_features_is_not_that_of_rounding_errors():
    generator = torch.Generator().manual_seed(0)
    constant = torch.rand(1, 256, generator=generator).repeat(64, 1)
    assert effective_rank(constant).item() == 0
    rounded = constant * (1 + 1e-7 * torch.randn(64, 256, generator=generator))
    assert effective_rank(rounded).item() == 0


def test_half_precision():
    probs = random_probs().half()
    assert mutual_information(probs).item() == pytest.approx(
        mutual_information(random_probs()).item(), abs=1e-2
    )
    assert feature_std(torch.ones(3, 4).half()).dtype == torch.float32


@pytest.mark.parametrize(
    ('function', 'argument', 'message'),
    [
        (prototype_entropy, torch.ones(3, 1), r'2 prototypes, but are \(3, 1\)'),
        (prototype_entropy, torch.ones(0, 4), r'1 sample .* \(0, 4\)'),
        (prototype_entropy, torch.ones(3, 4), '3 of 3 rows .* add up to 1'),
        (prototype_entropy, torch.full((3, 4), torch.nan), '3 of 3 rows'),
        (mutual_information, torch.full((1, 4), 0.25), 'at least 2 samples, but got 1'),
        (feature_std, torch.ones(1, 4), r'at least 2 samples, but are \(1, 4\)'),
        (effective_rank, torch.ones(4), r'at least 2 samples, but are \(4,\)'),
    ],
)
def test_degenerate_input(function, argument, message):
    with pytest.raises(ValueError, match=message):
        function(argument)
