# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import torch
from plain_dogo import plain_similarity_kl

from mmmokd.models.losses import similarity_kl


def test_divergence_and_gradient(float64):
    torch.manual_seed(0)
    student = torch.randn(2, 5, 4, requires_grad=True)
    teacher = torch.randn(2, 5, 3)  # of another width
    for temperature in (0.1, 1.0):
        loss = similarity_kl(tuple(student), tuple(teacher), temperature)
        expected = plain_similarity_kl(student, teacher, temperature)
        torch.testing.assert_close(loss, expected, rtol=1e-11, atol=0)
        found, wanted = (torch.autograd.grad(each, student)[0] for each in (loss, expected))
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-13)
    assert similarity_kl(tuple(student), tuple(3 * student.detach())).abs() < 1e-14
