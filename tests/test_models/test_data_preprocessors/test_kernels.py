# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The kernels against the plain text: by Triton's interpreter, and on a GPU where there is one."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from mmmokd.models.data_preprocessors import MultiCropDataPreprocessor, view_passes
from mmmokd.models.data_preprocessors.color import to_gray
from mmmokd.models.data_preprocessors.resampling import resampling_matrix
from mmmokd.models.data_preprocessors.view_passes import jitter, lay_out, load_kernels, to_device
from mmmokd.structures import ViewGroup, ViewSampler

CPU = torch.device('cpu')
STARTS = torch.tensor([0.0, 7.0, 55.0, 10.3, 59.9])
LENGTHS = torch.tensor([60.0, 31.0, 5.0, 20.5, 0.1])
FLIPS = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0])
MATRICES = [('bilinear', 7), ('bicubic', 5), ('bicubic', 70)]
# Triton chooses its interpreter as it is imported. The module alone: it needs no other of ours.
CHILD = """
import runpy, sys, torch
kernels = runpy.run_path(sys.argv[1])
calls = torch.load(sys.argv[2], weights_only=False)
kernels['jitter'].__globals__['BLOCK'] = 128
torch.save([kernels[name](*arguments) for name, arguments in calls], sys.argv[3])
"""


def drawn_colors():
    """Parameters of views with all steps, in both layouts, and resized views."""
    group = ViewGroup(size=(12, 14), scale=(0.1, 1.0), num=24, color_jitter=(0.8, 0.8, 0.8, 0.4),
                      grayscale=0.2)  # fmt: skip
    params = ViewSampler([group]).draw([(20, 24)], torch.Generator().manual_seed(0))
    layouts = [lay_out(params, list(range(24)), np.ones((1, 2)), fused) for fused in (False, True)]
    views = 300 * torch.rand(24, 12, 3, 14, generator=torch.Generator().manual_seed(1)) - 20
    views[:, 0, :, :4] = torch.tensor([0.5, 1.5, 2.5, 254.5])  # a half goes to the even level
    return views, *to_device(layouts, CPU)


@pytest.mark.long
def test_interpreted(tmp_path):
    pytest.importorskip('triton')
    views, plain, fused = drawn_colors()
    calls = [
        ('resampling_matrix', (STARTS, LENGTHS, size, 60, kind, FLIPS, torch.float32))
        for kind, size in MATRICES
    ]
    calls.append(('jitter', (views, *(fused[name] for name in ('steps', 'values', 'grayscale')))))
    torch.save(calls, tmp_path / 'calls.pt')
    kernels = view_passes.__file__.replace('view_passes', 'kernels')
    files = [str(tmp_path / name) for name in ('calls.pt', 'found.pt')]
    subprocess.run(
        [sys.executable, '-c', CHILD, kernels, *files],
        env=dict(os.environ, TRITON_INTERPRET='1'), check=True,
    )  # fmt: skip
    *matrices, colors = torch.load(files[1])
    for (kind, size), found in zip(MATRICES, matrices, strict=True):
        expected = resampling_matrix(STARTS, LENGTHS, size, 60, kind, FLIPS > 0)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    expected = jitter(views.round().clamp_(0, 255), plain)
    gray = plain['grayscale_of']
    assert 0 < len(gray) < 24
    expected[gray] = to_gray(expected[gray]).expand(-1, -1, 3, -1)
    assert torch.equal(colors, expected)


def test_other_devices_do_without():
    assert load_kernels(CPU) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('with_kernels', [True, False])
def test_on_a_gpu(with_kernels, monkeypatch):
    """The views of the CPU within a level, and nothing waits for the GPU."""
    if not with_kernels:
        monkeypatch.setattr(
            'mmmokd.models.data_preprocessors.multi_crop.load_kernels', lambda _: None
        )
    groups = [
        dict(size=64, scale=(0.25, 1.0), num=2, solarize=0.3),
        dict(size=32, scale=(0.05, 0.3)),
    ]
    images = torch.randint(0, 256, (8, 3, 12, 16), generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(images.float(), (96, 128), mode='bilinear').byte()
    made = []
    for device in ('cpu', 'cuda'):
        preprocessor = MultiCropDataPreprocessor(groups).to(device)
        batch = dict(inputs=images.pin_memory() if device == 'cuda' else images)
        preprocessor(batch, True)  # compiles
        preprocessor.set_iteration(0, 1)
        torch.cuda.set_sync_debug_mode('error' if device == 'cuda' else 'default')
        try:
            made.append(preprocessor(batch, True)['inputs'])
        finally:
            torch.cuda.set_sync_debug_mode('default')
    for on_cpu, on_gpu in zip(*made, strict=True):
        off = (on_cpu - on_gpu.cpu()).abs()
        assert off.mean() < 0.3 and off.quantile(0.99) <= 3
