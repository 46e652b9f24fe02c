# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from offline_testing import Ends, plain_info_nce

from mmmokd.models.heads import QueueInfoNCEHead
from mmmokd.structures import Views


def test_loss_gradient_and_queue(float64):
    """The first view against the teacher's second, whether the teacher saw one view or both."""
    torch.manual_seed(0)
    head = QueueInfoNCEHead(queue_length=7, temperature=0.2, loss_weight=0.5)
    head.connect(Ends(projector=4), Ends(projector=4))
    views = Views([torch.zeros(3, 3, 4, 4)] * 2, [])
    queue = [*head.queue['teacher']]
    for seen in (2, 1):
        student = torch.randn(2, 3, 4, requires_grad=True)
        teacher = torch.randn(seen, 3, 4)
        loss = head.loss(dict(projector=student), dict(projector=teacher), views)
        pairs = zip(student[0], teacher[-1], strict=True)
        expected = 0.5 * sum(plain_info_nce(q, k, queue, 0.2) for q, k in pairs) / 3
        torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
        grads = [torch.autograd.grad(x, student)[0] for x in (loss, expected)]
        torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-14)
        queue = [*head.queue['teacher']]
        assert int(head.queue.pointer) == (3 if seen == 2 else 6)


def test_refuses_other_widths():
    with pytest.raises(ValueError, match='QueueInfoNCEHead compares .* out_channels=6'):
        QueueInfoNCEHead(teacher='peers').connect(Ends(projector=4), Ends(projector=6))
    with pytest.raises(ValueError, match='QueueInfoNCEHead learns from a teacher: set teacher to'):
        QueueInfoNCEHead(teacher='none')
