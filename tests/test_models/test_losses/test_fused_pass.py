# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The kernels of the loss against the plain text: by Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmmokd.models.losses import fused_pass
from mmmokd.models.losses.fused_pass import kernels_for

CPU = torch.device('cpu')


@pytest.mark.long
def test_interpreted():
    """In a process of its own: Triton chooses its interpreter as it is imported."""
    pytest.importorskip('triton')
    child = Path(__file__).parents[2] / 'helpers' / 'interpreted_loss.py'
    subprocess.run(
        [sys.executable, str(child)], env=dict(os.environ, TRITON_INTERPRET='1'), check=True
    )


def test_other_devices_and_dtypes_do_without(monkeypatch):
    rows, params = torch.ones(2, 4), [torch.ones(8, 1), torch.ones(8, 4)]
    assert kernels_for(torch.bfloat16, rows, params) is None  # the CPU
    monkeypatch.setattr(fused_pass, 'load_kernels', lambda device: device)
    assert kernels_for(torch.bfloat16, rows, params) == CPU
    for dtype in (torch.float32, torch.float16):
        assert kernels_for(dtype, rows, params) is None
    for others in ([params[0], params[1].double()], [params[0], torch.ones(4, 8).t()]):
        assert kernels_for(torch.bfloat16, rows, others) is None
    assert kernels_for(torch.bfloat16, rows[:0], params) is None


@pytest.mark.parametrize(('rows', 'number'), [(640, 65536), (3, 37), (10**9, 1000)])
def test_chunks(rows, number):
    chunks = fused_pass._chunks(rows, number)
    assert [i for each in chunks for i in range(number)[each]] == list(range(number))
    assert max(each.stop - each.start for each in chunks) == chunks[0].stop
    assert chunks[0].stop * rows * 2 <= max(fused_pass.CHUNK_BYTES, 256 * rows)


def test_sums_over_prototypes():
    torch.manual_seed(0)
    for number in (37, 4096, 6144):
        probs, weights = torch.rand(5, number), torch.randn(number, 3)
        expected = probs.double() @ weights.double()
        found = fused_pass._sum_over_prototypes(probs, weights)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)
