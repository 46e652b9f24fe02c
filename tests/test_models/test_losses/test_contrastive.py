# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch

from mmmokd.models.losses import contrastive_cosines, info_nce, similarity_kl


def plain_cosines(query, keys):
    """Of one query with a list of keys, number by number."""

    def dot(a, b):
        return sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))

    return [dot(query, k) / math.sqrt(dot(query, query) * dot(k, k)) for k in keys]


def plain_softmax(values, temperature):
    exps = [math.exp(v / temperature) for v in values]
    return [e / sum(exps) for e in exps]


def embeddings(seed):
    """Queries of two views of three images, their keys, and a queue."""
    torch.manual_seed(seed)
    negatives = torch.nn.functional.normalize(torch.randn(5, 4), dim=1)
    return 3 * torch.randn(2, 3, 4), torch.randn(2, 3, 4), negatives


def test_cosines(float64):
    queries, keys, negatives = embeddings(0)
    found = contrastive_cosines(queries, keys, negatives)
    assert found.shape == (2, 3, 6)
    for v in range(2):
        for i in range(3):
            expected = plain_cosines(queries[v, i], [keys[v, i], *negatives])
            assert found[v, i].tolist() == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_info_nce(float64):
    """MoCo, equation (1)."""
    cosines = contrastive_cosines(*embeddings(0))
    terms = [-math.log(plain_softmax(row, 0.07)[0]) for row in cosines.flatten(0, 1).tolist()]
    assert info_nce(cosines, 0.07).item() == pytest.approx(sum(terms) / 6, rel=1e-12)


def test_similarity_kl(float64):
    """MCL's soft losses: sum of p_t log(p_t / p_s) over keys, times the temperature squared."""
    student, teacher = (contrastive_cosines(*embeddings(seed)) for seed in (0, 1))
    teacher.requires_grad_()
    terms = []
    for s, t in zip(student.flatten(0, 1).tolist(), teacher.flatten(0, 1).tolist(), strict=True):
        p_s, p_t = plain_softmax(s, 0.07 * 3), plain_softmax(t, 0.07 * 3)
        terms.append(9 * sum(q * math.log(q / p) for p, q in zip(p_s, p_t, strict=True)))
    student.requires_grad_()
    found = similarity_kl(student, teacher, 0.07, 3)
    assert found.item() == pytest.approx(sum(terms) / 6, rel=1e-12)
    found.backward()
    assert teacher.grad is None and student.grad.abs().sum() > 0
    assert similarity_kl(student, student, 0.07, 3).item() == pytest.approx(0, abs=1e-14)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    """Of rounded embeddings, under autocast, the cosines of float32; a large T^-1 stays finite."""
    queries, keys, negatives = embeddings(0)
    queries, keys = (1000 * queries).to(dtype), keys.to(dtype)
    expected = contrastive_cosines(queries.float(), keys.float(), negatives)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = contrastive_cosines(queries, keys, negatives)
    assert torch.equal(found, expected)
    assert torch.isfinite(similarity_kl(found, found.flip(-1), 1e-4))
