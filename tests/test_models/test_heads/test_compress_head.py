# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from offline_testing import Ends, plain_kl, unit

from mmmokd.models.heads import CompRessHead
from mmmokd.structures import Views


@pytest.mark.parametrize('num_queues', [1, 2])
def test_loss_gradient_and_queue(num_queues, float64):
    """Over three steps, in which the random anchors give way to embeddings."""
    torch.manual_seed(0)
    head = CompRessHead(num_queues, queue_length=10, loss_weight=0.3, reads='neck')
    width = 5 if num_queues == 1 else 3
    head.connect(Ends(neck=width), Ends(neck=5))
    names = ('student', 'teacher') if num_queues == 2 else ('teacher', 'teacher')
    own_anchors, anchors = (list(head.queue[name]) for name in names)
    views = Views([torch.zeros(2, 3, 4, 4)] * 2, [])
    for step in range(3):
        student = torch.randn(3, 2, width, requires_grad=True)  # of two views and another
        teacher, keys = torch.randn(2, 2, 5), torch.randn(2, 2, width)
        more = dict(own_teacher=dict(neck=keys)) if num_queues == 2 else {}
        loss = head.loss(dict(neck=student), dict(neck=teacher), views, **more)
        rows = [each.flatten(0, 1) for each in (student[:2], teacher)]
        expected = 0.3 * plain_kl(*rows, own_anchors, anchors)
        torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
        grads = [torch.autograd.grad(x, student)[0] for x in (loss, expected)]
        torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-13)
        # Both views of each image take the place of the oldest.
        new = [keys if num_queues == 2 else teacher, teacher]
        for queue, pushed in zip((own_anchors, anchors), new, strict=True):
            for i, row in enumerate(pushed.flatten(0, 1)):
                queue[(4 * step + i) % 10] = unit(row)
    assert int(head.queue.pointer) == 2


def test_evaluation_leaves_the_queue():
    head = CompRessHead(1, queue_length=4).eval()
    head.connect(Ends(pooled=3), Ends(pooled=3))
    head(torch.randn(2, 3), torch.randn(2, 3))
    assert int(head.queue.pointer) == 0


def test_refuses():
    with pytest.raises(ValueError, match='num_queues of CompRess must be 1 or 2, but got 3'):
        CompRessHead(3)
    with pytest.raises(ValueError, match="the student's pooled, of 3 .* teacher's projector, of 4"):
        CompRessHead(1, target_reads='projector').connect(Ends(pooled=3), Ends(projector=4))
