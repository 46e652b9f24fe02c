# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from plain_seed import slow_seed_loss
from torch.nn.functional import normalize

from mmmokd.models import SEEDHead


class Network(torch.nn.Module):
    """Knows how wide all is that is read of it."""

    def __init__(self, channels):
        super().__init__()
        self.channels = channels

    def width(self, reads):
        return self.channels


def build(channels, **kwargs):
    head = SEEDHead(**kwargs)
    head.connect(Network(channels), Network(channels))
    return head


def test_a_softer_teacher_counts_other_rows(float64):
    """At the paper's temperature a random queue does not count; at a higher one it does."""
    torch.manual_seed(0)
    student, teacher = torch.randn(1, 2, 5), torch.randn(1, 2, 5)
    units = [normalize(x, dim=-1).tolist() for x in (student, teacher)]
    for temp in (1e-4, 0.1):
        head = build(5, queue_length=4, teacher_temp=temp, loss_weight=0.5)
        expected = 0.5 * slow_seed_loss(*units, head.queue['teacher'].tolist(), [(0, 0)], temp)
        assert head(student, teacher).item() == pytest.approx(expected, rel=1e-9)


def test_half_precision():
    """Targets at T_t = 1e-4 are computed in float32, under autocast as well."""
    torch.manual_seed(0)
    student, teacher = torch.randn(1, 3, 8).bfloat16(), torch.randn(1, 3, 8).bfloat16()
    losses = []
    for autocast in (True, False):
        head = build(8, queue_length=16)
        inputs = (student, teacher) if autocast else (student.float(), teacher.float())
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=autocast):
            losses.append(head(*inputs))
        assert head.queue['teacher'].dtype == torch.float32
    assert torch.equal(*losses) and losses[0].dtype == torch.float32


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(teacher='none'), 'SEEDHead learns from a teacher'),
        (dict(teacher_temp=0), 'teacher_temp of SEEDHead must be a positive number'),
        (dict(student_temp=-1), 'student_temp of SEEDHead must be a positive number'),
        (dict(queue_length=0), 'length of a queue must be'),
    ],
)
def test_arguments_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        build(4, **settings)
