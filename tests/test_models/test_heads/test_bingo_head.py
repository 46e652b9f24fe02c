# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from offline_testing import Ends, plain_bingo

from mmmokd.models.heads import BINGOHead
from mmmokd.structures import Views


@pytest.mark.parametrize(('epoch', 'own'), [(10, 1.0), (11, 0.5)])
def test_loss_gradient_and_queue(epoch, own, float64):
    torch.manual_seed(0)
    head = BINGOHead(queue_length=9, loss_weight=0.7, target_reads='pooled')
    head.connect(Ends(projector=4), Ends(pooled=4))
    assert head.set_epoch(epoch) == dict(own_share=own)
    views = Views([torch.zeros(3, 3, 4, 4)] * 2, [], mix_share=0.4)
    queue = [*head.queue['teacher']]
    queries, keys = torch.randn(3, 3, 4, requires_grad=True), torch.randn(2, 3, 4)
    loss = head.loss(dict(projector=queries), dict(pooled=keys), views)
    expected = 0.7 * plain_bingo(queries, keys, queue, own, 0.4)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    grads = [torch.autograd.grad(x, queries)[0] for x in (loss, expected)]
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-14)
    # The images' keys alone become negatives, not those of their bags.
    rows = head.queue['teacher']
    torch.testing.assert_close(
        rows[:3], keys[0] / keys[0].norm(dim=1, keepdim=True), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(rows[3:], torch.stack(queue[3:]), atol=0, rtol=0)


def test_refuses():
    with pytest.raises(ValueError, match=r'own_share of BINGOHead must be in \[0, 1\]'):
        BINGOHead(own_share=1.5)
    head = BINGOHead(queue_length=4)
    with pytest.raises(ValueError, match='which the algorithm mmmokd.BINGO prepares'):
        head.loss({}, {}, Views([torch.zeros(1, 3, 4, 4)] * 2, []))
