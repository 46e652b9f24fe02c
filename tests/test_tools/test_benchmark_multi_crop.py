# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import re
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmpretrain.registry import TRANSFORMS
from PIL import Image

from mmmokd.datasets import MultiCrop
from mmmokd.datasets.transforms.multi_crop import PAPER_GROUPS

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'benchmarks' / 'benchmark_multi_crop.py'


@pytest.fixture
def restored():
    """Puts back what the tool sets for its own process."""
    threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    scopes = dict(DefaultScope._instance_dict)
    yield
    torch.set_num_threads(threads)
    cv2.setNumThreads(cv2_threads)
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(scopes)


def test_both_sides_make_the_same_views():
    """The baseline is the same work: as many views of the same sizes."""
    tool = runpy.run_path(str(TOOL))
    assert tool['make_image']().shape == (375, 500, 3)
    for group in PAPER_GROUPS:
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            steps = [TRANSFORMS.build(step) for step in tool['stock_view'](group)]
        results = dict(img=tool['make_image'](100, 120))
        for step in steps:
            results = step(results)
        assert results['img'].shape == (*group.size, 3)
        ours = MultiCrop([group])(dict(img=tool['make_image'](100, 120)))['img']
        assert [view.shape for view in ours] == [results['img'].shape] * group.num


@pytest.mark.parametrize('with_file', [False, True])
def test_prints_medians_and_their_ratio(tmp_path, monkeypatch, capsys, restored, with_file):
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(tmp_path / 'a.png')
    image = ['--image', str(tmp_path / 'a.png')] if with_file else []
    monkeypatch.setattr('sys.argv', [str(TOOL), '--rounds', '3', *image])
    runpy.run_path(str(TOOL), run_name='__main__')
    printed = capsys.readouterr().out
    medians = re.findall(r': +([\d.]+) ms an image \(10 views\)', printed)
    ratio = re.search(r'MultiCrop takes ([\d.]+) of the time', printed)
    assert len(medians) == 2
    expected = float(medians[0]) / float(medians[1])
    assert float(ratio[1]) == pytest.approx(expected, abs=0.05)
