# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from mmpretrain.structures import DataSample

from mmmokd.models.heads import ClassificationHead
from mmmokd.structures import Views

LABELS = [2, None, 0, -1, 1, None]
SMOOTH = dict(type='mmpretrain.LabelSmoothLoss', label_smooth_val=0.3, mode='original')


def build(**kwargs):
    torch.manual_seed(0)
    head = ClassificationHead(num_classes=3, in_channels=4, **kwargs)
    head.init_weights()
    return head


def batch(labels=LABELS, globals_=2, locals_=1):
    """Features of all views, and the views with their labels."""
    torch.manual_seed(1)
    samples = [DataSample() if x is None else DataSample().set_gt_label(x) for x in labels]
    views = [torch.zeros(len(labels), 3, 2, 2)] * (globals_ + locals_)
    features = torch.randn(globals_ + locals_, len(labels), 4)
    return features, Views(views[:globals_], views[globals_:], samples)


def plain(head, features, labels, smooth=0.0):
    """Mean over the labeled images and views, number by number."""
    weight, bias = head.fc.weight, head.fc.bias
    terms = []
    for view in features:
        for row, label in zip(view, labels, strict=True):
            if label in (None, -1):
                continue
            scores = weight @ row + bias
            log_probs = [(s.exp() / scores.exp().sum()).log() for s in scores]
            terms.append((smooth - 1) * log_probs[label] - smooth / 3 * sum(log_probs))
    return sum(terms) / len(terms)


@pytest.mark.parametrize('labels', [LABELS, [0, 1, 2, 2]])
@pytest.mark.parametrize('all_views', [False, True])
@pytest.mark.parametrize(('loss', 'smooth'), [(None, 0.0), (SMOOTH, 0.3)])
def test_loss_and_gradients(labels, all_views, loss, smooth, float64):
    head = build(loss=loss, loss_weight=0.5, all_views=all_views)
    features, views = batch(labels)
    found = head.loss(dict(pooled=features), None, views)
    expected = 0.5 * plain(head, features if all_views else features[:2], labels, smooth)
    params = list(head.parameters())
    grads, others = torch.autograd.grad(found, params), torch.autograd.grad(expected, params)
    # The smoothed labels of mmpretrain are float32.
    tolerance = dict(rtol=1e-6, atol=1e-7) if smooth else dict(rtol=1e-11, atol=1e-14)
    for one, other in zip((found, *grads), (expected, *others), strict=True):
        torch.testing.assert_close(one, other, **tolerance)
    # An unlabeled image is not right, whatever the classifier says.
    own = head.fc(features if all_views else features[:2]).argmax(dim=-1)
    known = [i for i, label in enumerate(labels) if label not in (None, -1)]
    right = [float(view[i] == labels[i]) for view in own for i in known]
    assert float(head.metrics['accuracy']) == pytest.approx(100 * sum(right) / len(right))


@pytest.mark.parametrize('loss', [None, SMOOTH, dict(type='mmpretrain.FocalLoss')])
def test_no_label_gives_zero_with_a_graph(loss):
    head = build(loss=loss)
    features, views = batch([None, -1])
    found = head.loss(dict(pooled=features), None, views)
    assert not found.detach() and not head.metrics
    for grad in torch.autograd.grad(found, list(head.parameters())):
        assert not grad.any()


def test_half_precision_and_labels_of_a_neck():
    head = build(reads='neck')
    features, views = batch()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = head.loss(dict(neck=features), None, views)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, plain(head, features[:2], LABELS), rtol=1e-2, atol=0)


@pytest.mark.parametrize(
    ('labels', 'message'),
    [
        ([0, 3, -2], r'num_classes=3, for labels from 0 to 2 \(or -1, unlabeled\), .* \[3, -2\]'),
        ([[0, 1], 1], r'one label per image, but got \[0, 1\]'),
    ],
)
def test_bad_labels(labels, message):
    features, views = batch(labels)
    with pytest.raises(ValueError, match=message):
        build().loss(dict(pooled=features), None, views)


def test_no_data_samples():
    features, views = batch()
    with pytest.raises(ValueError, match='no data_samples: does the pipeline end with PackInputs'):
        build().loss(dict(pooled=features), None, views._replace(data_samples=None))
