# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from mokd_testing import slow_cross_entropy, slow_softmax, slow_view_loss

from mmmokd.models.losses import (
    at_least_float32,
    multi_view_cross_entropy,
    soft_cross_entropy,
    teacher_probabilities,
)

SHAPES = [(2, 2, 1, 3), (3, 1, 2, 4), (10, 2, 3, 7), (5, 3, 2, 5)]


def random_case(num_views, num_targets, batch, num_prototypes, dtype=torch.float64):
    torch.manual_seed(num_views * 100 + num_targets)
    logits = 5 * torch.randn(num_views, batch, num_prototypes, dtype=dtype)
    targets = torch.rand(num_targets, batch, num_prototypes, dtype=dtype)
    return logits, targets / targets.sum(dim=-1, keepdim=True)


def pairs_one_by_one(logits, targets):
    """Mean over pairs of different views, through sums and exponentials of single numbers."""
    terms = []
    for g in range(targets.shape[0]):
        for v in range(logits.shape[0]):
            for b in range(logits.shape[1]):
                if v == g:
                    continue
                total = sum(x.exp() for x in logits[v, b])
                log_probs = [(x.exp() / total).log() for x in logits[v, b]]
                terms.append(-sum(p * x for p, x in zip(targets[g, b], log_probs, strict=True)))
    return sum(terms) / len(terms)


@pytest.mark.parametrize('shape', SHAPES)
def test_pairs_of_views(shape):
    logits, targets = random_case(*shape)
    logits.requires_grad_()
    loss = multi_view_cross_entropy(logits, targets)
    (grad,) = torch.autograd.grad(loss, logits)
    expected = pairs_one_by_one(logits, targets)
    (expected_grad,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-10, atol=1e-13)


def test_pairs_of_many_prototypes_in_float32():
    """No precision is lost by taking all pairs and then those of a view with itself away."""
    logits, targets = random_case(10, 2, 4, 4096, torch.float32)
    targets = torch.softmax(200 * torch.randn_like(targets), dim=-1)
    loss = multi_view_cross_entropy(100 * logits, targets)
    exact = multi_view_cross_entropy(100 * logits.double(), targets.double())
    torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ('views', 'targets', 'message'),
    [
        ((1, 2, 3), (1, 2, 3), '1 student views and 1 teacher views make no pair'),
        ((4, 2, 3), (2, 3, 3), r'\(4, 2, 3\) and \(2, 3, 3\)'),
        ((4, 2, 3), (2, 2, 4), r'\(4, 2, 3\) and \(2, 2, 4\)'),
        ((1, 2, 3), (2, 2, 3), 'V >= G'),
        ((4, 3), (2, 3), r'\(V, B, K\)'),
        ((4, 2, 3), (0, 2, 3), 'make no pair'),
    ],
)
def test_views_that_make_no_loss(views, targets, message):
    with pytest.raises(ValueError, match=message):
        multi_view_cross_entropy(torch.rand(views), torch.rand(targets))


def test_mean_over_samples():
    logits, targets = random_case(1, 1, 4, 6)
    expected = sum(
        slow_cross_entropy(t, s, 1.0)
        for t, s in zip(targets[0].tolist(), logits[0].tolist(), strict=True)
    )
    loss = soft_cross_entropy(torch.log_softmax(logits[0], dim=-1), targets[0])
    assert float(loss) == pytest.approx(expected / 4, rel=1e-12)


def test_samples_of_other_shapes():
    with pytest.raises(ValueError, match=r'students \(2, 3\) and targets \(2, 4\)'):
        soft_cross_entropy(torch.rand(2, 3), torch.rand(2, 4))


@pytest.mark.parametrize('temperature', [0.04, 0.07, 1.0])
@pytest.mark.parametrize('centered', [True, False])
def test_probabilities_of_a_teacher(temperature, centered):
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 5, dtype=torch.float64)
    center = torch.randn(1, 5, dtype=torch.float64) if centered else None
    found = teacher_probabilities(logits, temperature, center)
    shifts = center[0].tolist() if centered else [0.0] * 5
    for g in range(2):
        for b in range(3):
            expected = slow_softmax(
                [(x - c) / temperature for x, c in zip(logits[g, b].tolist(), shifts, strict=True)]
            )
            assert found[g, b].tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype):
    logits = torch.randn(2, 3, 5).to(dtype)
    assert at_least_float32(logits).dtype == torch.float32
    found = teacher_probabilities(logits, 0.04)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, teacher_probabilities(logits.float(), 0.04), rtol=0, atol=0)
    assert at_least_float32(torch.rand(1, dtype=torch.float64)).dtype == torch.float64


def test_plain_formula_of_the_tests():
    """The slow formula that other tests compare with, on numbers worked out by hand."""
    student = [[[0.0, math.log(3)]], [[0.0, 0.0]], [[0.0, 0.0]]]
    teacher = [[[0.0, 0.0]], [[math.log(4), math.log(2)]]]
    # View 0 of the teacher, (1/2, 1/2), with views 1 and 2; its view 1, centered (1/2, 1/2), with
    # views 0 and 2: three times log 2 and once -(log 1/4 + log 3/4) / 2.
    expected = (3 * math.log(2) - (math.log(0.25) + math.log(0.75)) / 2) / 4
    center = [math.log(2), 0.0]
    teacher[0] = [[math.log(2), 0.0]]
    assert slow_view_loss(student, teacher, center, 1.0, 1.0) == pytest.approx(expected, rel=1e-12)
