# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""A checkpoint of an early commit resumes as it would have there; see :mod:`old_run`."""

import json
import lzma
from pathlib import Path

import old_run
import pytest
import torch
from mokd_testing import short_log

FILES = Path(__file__).parents[1] / 'data' / 'resume'


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Resumes the old checkpoint in float32 or float64 and gives the losses and the log."""
    folder = tmp_path_factory.mktemp('old')
    old_run.write_images(folder / 'images')
    checkpoint = folder / 'epoch_2.pth'
    checkpoint.write_bytes(lzma.decompress((FILES / 'epoch_2.pth.xz').read_bytes()))

    def resume(double):
        work_dir = folder / f'resumed_{"float64" if double else "float32"}'
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        with short_log():
            losses = old_run.losses_after(folder / 'images', work_dir, checkpoint, double)
        torch.set_num_threads(threads)
        (log,) = work_dir.glob('*/*.log')
        return losses, log.read_text()

    return resume


@pytest.fixture(scope='module')
def expected():
    return json.loads((FILES / 'losses.json').read_text())


def relative_difference(found, expected):
    assert [list(each) for each in found] == [list(each) for each in expected]
    return max(
        abs(each[key] - value) / abs(value)
        for each, wanted in zip(found, expected, strict=True)
        for key, value in wanted.items()
    )


def test_old_checkpoint_resumes_with_the_same_losses(run, expected):
    """But for rounding: fused optimizers and other processors add up in another order."""
    losses, log = run(double=False)
    assert relative_difference(losses, expected['float32']) < 1e-5
    # Its config has names of that time, of which the log tells.
    assert "dataset.type: 'mmmokd.PictureFolder' -> 'mmmokd.ImageFolder'" in log


def test_old_checkpoint_resumes_in_double_precision(run, expected):
    """A precision where rounding hides nothing, on any processor."""
    losses, _ = run(double=True)
    assert relative_difference(losses, expected['float64']) < 1e-12
