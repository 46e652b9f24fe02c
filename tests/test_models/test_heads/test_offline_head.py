# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import torch
from offline_testing import Ends, losses_grads_and_queues

from mmmokd.models.heads import CompRessHead


def test_micro_batches_are_a_batch(float64):
    """Losses, gradients and the queues after the step; no micro-batch sees the one before it."""
    parts = [slice(0, 3), slice(3, 6)]
    for found, whole in zip(losses_grads_and_queues(parts), losses_grads_and_queues(), strict=True):
        torch.testing.assert_close(found, whole, rtol=1e-10, atol=1e-14)


def test_mixed_precision_is_computed_in_float32():
    torch.manual_seed(0)
    losses = []
    for dtype in (torch.bfloat16, torch.float32):
        head = CompRessHead(1, queue_length=50)
        head.connect(Ends(pooled=8), Ends(pooled=8))
        torch.manual_seed(1)
        x, y = (torch.randn(4, 8).bfloat16().to(dtype) for _ in range(2))
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            losses.append(head(x, y))
    torch.testing.assert_close(*losses, rtol=1e-6, atol=0)
