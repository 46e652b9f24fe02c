# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import json
import re
import runpy

import benchmark_multi_crop as tool
import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from mmmokd.structures import ViewGroup

GROUPS = [ViewGroup(size=12, scale=(0.5, 1.0), num=2), ViewGroup(size=8, scale=(0.1, 0.3))]


@pytest.mark.parametrize('as_pixels', [False, True])
def test_both_sides_make_the_same_views(tmp_path, as_pixels):
    """The baseline is the same work: as many views of the same sizes and type, of the same image."""
    img = tool.make_image(30, 40)
    Image.fromarray(img).save(tmp_path / 'a.png')
    file = None if as_pixels else str(tmp_path / 'a.png')
    made = []
    for side in (tool.plain_side, tool.our_side):
        read, cut = side(GROUPS, file, img)
        image = read()
        read_pixels = image['img'] if isinstance(image, dict) else np.asarray(image)
        np.testing.assert_array_equal(read_pixels, img)
        made.append(cut(image))
    for theirs, ours in zip(*made, strict=True):
        assert theirs.shape == ours.shape and theirs.dtype == ours.dtype == torch.uint8


def test_numbers_fit_together():
    threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    found = tool.measure_crops(rounds=2, size=(40, 50), groups=GROUPS)
    assert (torch.get_num_threads(), cv2.getNumThreads()) == (threads, cv2_threads)
    assert found['image'] == (50, 40) and found['views'] == 3
    plain, ours = found['plain'], found['ours']
    assert found['ratio'] == ours['images_per_s'] / plain['images_per_s']
    assert found['ratio_of_crops'] == plain['crops_ms'] / ours['crops_ms']
    whole = plain['read_ms'] + plain['crops_ms']
    assert 1000 / plain['images_per_s'] == pytest.approx(whole, rel=0.5)


def test_prints_both_sides_and_writes_them(tmp_path, monkeypatch, capsys):
    Image.fromarray(tool.make_image(60, 80)).save(tmp_path / 'a.png')
    options = ['--rounds', '1', '--image', f'{tmp_path}/a.png', '--json', f'{tmp_path}/crops.json']
    monkeypatch.setattr('sys.argv', [tool.__file__, *options])
    runpy.run_path(tool.__file__, run_name='__main__')
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith('a.png')]
    written = json.loads((tmp_path / 'crops.json').read_text())['a.png']
    assert written['views'] == 10 and written['image'] == [80, 60]
    assert re.search(rf' 10 .* {written["plain"]["images_per_s"]:.0f}/s .* ', row)
    assert f'{written["ratio"]:.2f} x' in row


def test_small_data_sets_have_the_groups_of_their_configs(monkeypatch):
    monkeypatch.setattr(tool, 'SIZES', ((60, 80),))
    cases = tool.measure_cases(rounds=1, file=None)
    assert [(case['image'], case['views']) for case in cases.values()] == [
        ((80, 60), 10),
        ((32, 32), 4),
        ((28, 28), 4),
    ]
