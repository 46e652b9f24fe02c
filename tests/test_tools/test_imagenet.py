# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The estimate of a training on ImageNet, and its page."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

from mmmokd.utils.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / 'tools' / 'benchmarks' / 'imagenet.py'
NOTES = ROOT / 'docs' / 'en' / 'notes'
tool = runpy.run_path(str(TOOL))
Step, estimate = tool['Step'], tool['estimate']


def test_the_page_is_computed_from_the_measurements():
    found = json.loads((NOTES / 'imagenet.json').read_text())
    page = NOTES / 'imagenet.md'
    assert tool['write_page'](page, tool['describe'](found, 2.5)) == page.read_text()


def test_estimate():
    steps = [Step(64, (100.0, 120.0), 20.0), Step(32, (60.0, 60.0), 12.0)]
    steps.append(Step(64, (80.0, 90.0), 15.0, graph=True))
    one, eight, sixteen = (estimate(steps, gpus) for gpus in (1, 8, 16))
    assert one.images == '256' and one.ms == (320.0, 360.0) and one.gib == 60.0
    assert eight.ms == (60.0, 60.0) and eight.gib == 12.0
    assert sixteen.ms == (30.0, 60.0) and sixteen.gib == 12.0
    with pytest.raises(ConfigError, match='no step with CUDA graphs was measured'):
        estimate(steps[:2], 1)
    # 5004 steps x 100 epochs x 60 ms = 8.34 h.
    assert eight.cells(2.0) == [
        '8', '32', '60.0', '4,267', '8.3', '66.7', '133', '12.0'
    ]  # fmt: skip
    # 256 images in 48 to 240 ms.
    (slow,) = [estimate([Step(64, (192.0, 240.0), 1.0)], 16)]
    assert slow.cells(1.0)[2:5] == ['48.0 to 240', '1,067 to 5,333', '6.7 to 33.4']


def test_command(monkeypatch, capsys, tmp_path):
    page = tmp_path / 'page.md'
    page.write_text('# A page\n')
    for arguments, message in (
        (['--from', NOTES / 'imagenet.json', '--page', page], 'page.md lacks the lines'),
        (['--rounds', '0'], '--batches and --rounds must be at least 1'),
        *([] if torch.cuda.is_available() else [([], 'PyTorch finds no GPU')]),
    ):
        monkeypatch.setattr(sys, 'argv', [str(TOOL), *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(TOOL), run_name='__main__')
        assert end.value.code == 2 and message in capsys.readouterr().err
