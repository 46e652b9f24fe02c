# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch

from mmmokd.evaluation import nearest_neighbors, weighted_knn


def make_data(num_bank=53, num_queries=17, channels=8, num_classes=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    bank = torch.randn(num_bank, channels, generator=generator, dtype=torch.float64)
    queries = torch.randn(num_queries, channels, generator=generator, dtype=torch.float64)
    labels = torch.randint(num_classes, (num_bank,), generator=generator)
    labels[0] = num_classes - 1
    return bank, labels, queries


def knn_loop(bank, labels, queries, num_classes, k, temperature):
    """The definition, one query and one neighbor at a time; votes of all classes."""
    votes = []
    for query in queries.tolist():
        scored = []
        for key, label in zip(bank.tolist(), labels.tolist(), strict=True):
            dot = sum(a * b for a, b in zip(query, key, strict=True))
            norms = math.sqrt(sum(a * a for a in query)) * math.sqrt(sum(b * b for b in key))
            scored.append((dot / norms, label))
        vote = [0.0] * num_classes
        for similarity, label in sorted(scored, reverse=True)[:k]:
            vote[label] += math.exp(similarity / temperature)
        votes.append(vote)
    return votes


@pytest.mark.parametrize('chunk_size', [1, 7, 53, 4096])
@pytest.mark.parametrize('temperature', [0.07, 1.0])
def test_equals_plain_loop(chunk_size, temperature):
    bank, labels, queries = make_data()
    found = weighted_knn(
        bank, labels, queries, k=(1, 5, 53), temperature=temperature, topk=7, chunk_size=chunk_size
    )
    assert list(found) == [1, 5, 53]
    for k, predictions in found.items():
        assert predictions.shape == (17, 7)
        for row, vote in zip(
            predictions.tolist(), knn_loop(bank, labels, queries, 7, k, temperature), strict=True
        ):
            expected = [c for c in sorted(range(7), key=lambda c: -vote[c]) if vote[c] > 0]
            assert row == expected + [-1] * (7 - len(expected))


def test_float32_equals_matrix_form_in_float64():
    bank, labels, queries = make_data(num_bank=3000, num_queries=500, channels=32, num_classes=20)
    found = weighted_knn(bank.float(), labels, queries.float(), k=20, chunk_size=128)[20]
    similarity = torch.nn.functional.normalize(queries) @ torch.nn.functional.normalize(bank).T
    order = similarity.argsort(dim=1, descending=True)[:, :20]
    weights = (similarity.gather(1, order) / 0.07).exp()
    one_hot = torch.nn.functional.one_hot(labels[order], 20).double()
    votes = (one_hot * weights[..., None]).sum(dim=1)
    assert (found[:, 0] == votes.argmax(dim=1)).double().mean() > 0.995


def test_half_precision_and_autocast_do_not_change_the_arithmetic():
    bank, labels, queries = make_data()
    bank, queries = bank.half(), queries.half()
    expected = weighted_knn(bank.float(), labels, queries.float(), k=5)[5]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.equal(weighted_knn(bank, labels, queries, k=5)[5], expected)


def test_low_temperature_is_nearest_neighbor():
    bank, labels, queries = make_data()
    nearest = weighted_knn(bank.float(), labels, queries.float(), k=1)[1][:, 0]
    cold = weighted_knn(bank.float(), labels, queries.float(), k=20, temperature=1e-4)[20]
    assert torch.equal(cold[:, 0], nearest)
    # Votes that underflow still count as votes: no class of a neighbor is dropped.
    classes = [len(set(row.tolist()) - {-1}) for row in cold]
    assert classes == [
        len(set(row.tolist()) - {-1}) for row in weighted_knn(bank, labels, queries, k=20)[20]
    ]


def test_identical_query_is_recognized():
    bank, labels, _ = make_data()
    assert torch.equal(weighted_knn(bank, labels, bank * 3, k=1)[1][:, 0], labels)


def test_no_queries():
    bank, labels, queries = make_data()
    assert weighted_knn(bank, labels, queries[:0], k=(1, 2))[2].shape == (0, 5)


@pytest.mark.parametrize('size', [0, 19])
def test_k_above_bank_names_both(size):
    bank, labels, queries = make_data()
    with pytest.raises(ValueError, match=f'k=20 .* the bank has {size}'):
        weighted_knn(bank[:size], labels[:size], queries, k=(10, 20))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(k=0), r'at least 1, but got k=\[0\]'),
        (dict(temperature=0.0), 'temperature of k-NN must be positive, but got 0.0'),
        (dict(num_classes=6), r'from 0 to 5 \(6 classes\), but go from 0 to 6'),
        (dict(bank_labels=torch.zeros(52, dtype=torch.long)), '53 features, but .*52'),
        (dict(queries=torch.zeros(4, 9)), r'\(53, 8\) and \(4, 9\)'),
        (dict(queries=torch.full((4, 8), torch.nan)), '4 of 4 query features are not finite'),
    ],
)
def test_bad_input(change, message):
    bank, labels, queries = make_data()
    arguments = dict(bank=bank, bank_labels=labels, queries=queries, k=5) | change
    with pytest.raises(ValueError, match=message):
        weighted_knn(**arguments)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_gpu_equals_cpu():
    bank, labels, queries = make_data(num_bank=5000, num_queries=1000, channels=64)
    on_gpu = weighted_knn(bank, labels, queries, k=20, chunk_size=512, device='cuda')[20]
    assert on_gpu.device.type == 'cpu'
    assert torch.equal(on_gpu, weighted_knn(bank, labels, queries, k=20)[20])


@pytest.mark.parametrize('chunk_size', [1, 7, 4096])
def test_nearest_neighbors(chunk_size):
    """The definition, one pair at a time: never the image itself, though one like it."""
    rows = make_data(num_bank=20)[0]
    rows[3] = 2 * rows[11] + 1e-4 * rows[0]
    found = nearest_neighbors(rows, k=4, chunk_size=chunk_size)
    for i, row in enumerate(rows):
        cosines = {
            j: -float(row @ x / (row.norm() * x.norm())) for j, x in enumerate(rows) if j != i
        }
        assert found[i].tolist() == sorted(cosines, key=cosines.get)[:4]
    assert found[3, 0] == 11 and found[11, 0] == 3
    with pytest.raises(
        ValueError, match='at least 21 images, for 1 of them can be the query itself'
    ):
        nearest_neighbors(rows, k=20)
