# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from mmmokd.evaluation import LinearProbeMetric, linear_probe
from mmmokd.evaluation.functional import classify_linear, train_linear
from mmmokd.evaluation.metrics import FeatureSet
from mmmokd.registry import METRICS
from mmmokd.utils import stratified_share

LRS = (0.01, 0.3, 2.0)


def make_data(num=110, channels=12, num_classes=4, seed=0, noise=1.0):
    """Classes round centers of their own; the same centers for every seed."""
    centers = torch.randn(
        num_classes, channels, generator=torch.Generator().manual_seed(99), dtype=torch.float64
    )
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num) % num_classes
    noises = torch.randn(num, channels, generator=generator, dtype=torch.float64)
    return centers[labels] + noise * noises, labels


def train_one(features, labels, lr, epochs, batch_size, seed):
    """The same by PyTorch's own layer, optimizer, schedule and loss, one rate alone."""
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(features.shape[1], int(labels.max()) + 1).double()
    first = torch.randn(features.shape[1], layer.out_features, generator=generator)
    with torch.no_grad():
        layer.weight.copy_(0.01 * first.T)
        layer.bias.zero_()
    optimizer = torch.optim.SGD(layer.parameters(), lr=lr * batch_size / 256, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs, eta_min=0)
    for _ in range(epochs):
        order = torch.randperm(len(features), generator=generator)
        for start in range(0, len(features), batch_size):
            rows = order[start : start + batch_size]
            optimizer.zero_grad()
            nn.functional.cross_entropy(layer(features[rows]), labels[rows]).backward()
            optimizer.step()
        schedule.step()
    return layer


def classify(layer, features):
    with torch.no_grad():
        return layer(features).argsort(dim=1, descending=True)


@pytest.mark.parametrize(('batch_size', 'seed'), [(16, 0), (110, 3), (256, 0)])
def test_stacked_classifiers_equal_one_after_another(batch_size, seed):
    features, labels = make_data()
    weight, bias = train_linear(features, labels, 4, LRS, 7, batch_size, seed)
    assert weight.shape == (3, 12, 4) and bias.shape == (3, 4)
    for i, lr in enumerate(LRS):
        layer = train_one(features, labels, lr, 7, batch_size, seed)
        torch.testing.assert_close(weight[i].T, layer.weight.data, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(bias[i], layer.bias.data, rtol=1e-9, atol=1e-12)


def test_rate_is_chosen_on_what_was_held_out_then_trained_on_all():
    bank, labels = make_data(noise=2.0)
    queries, query_labels = make_data(60, seed=1, noise=2.0)
    found = linear_probe(bank, labels, queries, LRS[::-1], epochs=7, batch_size=16, topk=4)
    held = torch.zeros(110, dtype=torch.bool)
    held[torch.from_numpy(stratified_share(labels.numpy(), 0.1))] = True
    assert held.sum() == 12 and labels[held].bincount().tolist() == [3] * 4
    expected = {}
    for lr in LRS:
        layer = train_one(bank[~held], labels[~held], lr, 7, 16, 0)
        hits = classify(layer, bank[held])[:, 0] == labels[held]
        expected[lr] = 100 * hits.double().mean().item()
    assert found.held_out == expected and len(set(expected.values())) > 1
    assert found.lr == min(lr for lr in LRS if expected[lr] == max(expected.values()))
    layer = train_one(bank, labels, found.lr, 7, 16, 0)
    assert torch.equal(found.predictions, classify(layer, queries))
    # The queries have no part in the choice.
    assert linear_probe(bank, labels, queries[:0], LRS, epochs=7, batch_size=16)[1:] == found[1:]


def test_one_rate_holds_nothing_out():
    bank, labels = make_data()
    found = linear_probe(bank, labels, bank, (0.1,), epochs=3, batch_size=32)
    assert found.held_out == {} and found.lr == 0.1
    layer = train_one(bank, labels, 0.1, 3, 32, 0)
    assert torch.equal(found.predictions[:, :4], classify(layer, bank))
    assert (found.predictions[:, 4] == -1).all()


def test_separable_classes_are_learned_and_float32_agrees():
    bank, labels = make_data(noise=0.1)
    queries, query_labels = make_data(50, seed=1, noise=0.1)
    exact = linear_probe(bank, labels, queries, LRS, epochs=20)
    assert torch.equal(exact.predictions[:, 0], query_labels)
    single = linear_probe(bank.float(), labels, queries.float(), LRS, epochs=20)
    assert torch.equal(single.predictions[:, 0], query_labels)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        again = linear_probe(bank.float(), labels, queries.float(), LRS, epochs=20)
    assert torch.equal(again.predictions, single.predictions)


def test_extreme_rate_does_not_become_infinite():
    """Probabilities underflow; the gradients that are left out are below any difference."""
    features, labels = make_data(noise=0.1)
    weight, bias = train_linear(features.float(), labels, 4, (1e4,), epochs=5, batch_size=16)
    assert weight.isfinite().all() and bias.isfinite().all()


def test_class_that_the_bank_lacks_is_never_predicted_above_others():
    bank, labels = make_data()
    seen = labels != 2
    found = linear_probe(bank[seen], labels[seen], bank[~seen], (0.3,), epochs=10, topk=4)
    assert (found.predictions[:, 0] != 2).all()
    found = linear_probe(bank[labels < 3], labels[labels < 3], bank, LRS, epochs=2, topk=4)
    assert found.predictions.max() == 2 and (found.predictions[:, 3] == -1).all()


def test_chunks_and_no_queries():
    bank, labels = make_data()
    classifiers = train_linear(bank, labels, 4, LRS, epochs=2)
    whole = classify_linear(classifiers, bank, topk=2)
    assert whole.shape == (3, 110, 2)
    assert torch.equal(classify_linear(classifiers, bank, topk=2, chunk_size=7), whole)
    assert classify_linear(classifiers, bank[:0]).shape == (3, 0, 5)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(lrs=()), r'positive numbers, but got \[\]'),
        (dict(lrs=(0.1, -1.0)), r'positive numbers, but got \[0.1, -1.0\]'),
        (dict(lrs=(float('nan'),)), r'positive numbers, but got \[nan\]'),
        (dict(epochs=0), 'epochs=0 and batch_size=256'),
        (dict(num_classes=3), r'from 0 to 2 \(3 classes\), but go from 0 to 3'),
        (dict(bank_labels=torch.arange(110)), 'none of its 110 images has another of its class'),
        (dict(bank=torch.zeros(0, 12), bank_labels=torch.zeros(0).long()), 'bank has no features'),
        (dict(queries=torch.zeros(2, 3)), r'\(110, 12\) and \(2, 3\)'),
        (dict(queries=torch.full((2, 12), torch.inf)), '2 of 2 query features are not finite'),
    ],
)
def test_bad_input(change, message):
    bank, labels = make_data()
    with pytest.raises(ValueError, match=message):
        linear_probe(**dict(bank=bank, bank_labels=labels, queries=bank, lrs=LRS) | change)


def feature_set(blocks, seed=0):
    """A network whose class is told by its first block alone, if it has several."""
    bank, labels = make_data(seed=seed, noise=0.2)
    queries, query_labels = make_data(30, seed=seed + 1, noise=0.2)
    blind = [torch.ones(1, blocks - 1, 12)] if blocks > 1 else []

    def stack(features):
        others = [each.expand(len(features), -1, -1) for each in blind]
        return torch.cat([features[:, None].float(), *others], dim=1)

    return FeatureSet(f'net{blocks}', stack(bank), labels, stack(queries), query_labels)


def evaluate(metric, *sets):
    metric.process(None, sets)
    return metric.evaluate(size=1)


def test_metric_reads_the_last_blocks_it_asks_for():
    few = dict(lrs=(0.1, 1.0), epochs=20)
    found = evaluate(LinearProbeMetric(**few), feature_set(1), feature_set(4), feature_set(5))
    assert found['net1/linear_top1'] == found['net4/linear_top1'] == 100
    assert found['net5/linear_top1'] < 50  # the block that tells is the fifth from the end
    assert evaluate(LinearProbeMetric(**few, last_blocks=1), feature_set(4))[
        'net4/linear_top1'
    ] == pytest.approx(100 * 8 / 30)


def test_metric_names_and_authors_rates():
    metric = LinearProbeMetric(lrs=None, epochs=1, topk=(1, 3))
    found = evaluate(metric, feature_set(1), feature_set(2))
    assert found['net1/linear_lr'] == 0.01 and found['net2/linear_lr'] == 0.001
    assert set(found) == {
        f'net{blocks}/linear_{name}' for blocks in (1, 2) for name in ('top1', 'top3', 'lr')
    }
    swept = evaluate(LinearProbeMetric(epochs=1, log_sweep=True), feature_set(1))
    rates = ('0.001', '0.003', '0.01', '0.03', '0.1', '0.3', '1', '3', '10')
    assert {key for key in swept if 'held_out' in key} == {
        f'net1/linear_held_out_lr{rate}' for rate in rates
    }
    assert evaluate(LinearProbeMetric(lrs=0.5, epochs=1), feature_set(1))['net1/linear_lr'] == 0.5


def test_metric_names_the_network_at_fault():
    broken = feature_set(2)
    broken.bank[3] = torch.nan
    with pytest.raises(ValueError, match='LinearProbeMetric of net2: 1 of 110 bank features'):
        evaluate(LinearProbeMetric(), broken)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(lrs=[]), r'positive numbers, but got \[\]'),
        (dict(lrs=0), r'positive numbers, but got \[0\]'),
        (dict(epochs=0), 'at least one epoch'),
        (dict(topk=()), r'at least 1, but got \(\)'),
        (dict(last_blocks=0), 'at least 1, but got 0'),
        (dict(held_out_share=1.0), 'between 0 and 1, but got 1.0'),
    ],
)
def test_metric_refuses_bad_settings(kwargs, message):
    with pytest.raises(ValueError, match=message):
        METRICS.build(dict(type='mmmokd.LinearProbeMetric', **kwargs))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_gpu_equals_cpu():
    features, labels = make_data(num=1000)
    on_gpu = train_linear(features, labels, 4, LRS, epochs=5, device='cuda')
    on_cpu = train_linear(features, labels, 4, LRS, epochs=5)
    assert on_gpu.weight.device.type == 'cuda'
    torch.testing.assert_close(on_gpu.weight.cpu(), on_cpu.weight, rtol=1e-9, atol=1e-12)
