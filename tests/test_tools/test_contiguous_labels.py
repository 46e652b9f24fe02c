# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import json

import cv2
import numpy as np
import pytest
from transfer_testing import run_here

TOOL = 'dataset_converters/contiguous_labels.py'


@pytest.fixture
def maps(tmp_path):
    """A folder of two maps, and the list of their classes."""
    for name, ids in (('a', [[0, 7], [300, 5]]), ('deep/b', [[7, 7], [9, 5]])):
        path = tmp_path / 'maps' / f'{name}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.array(ids, np.uint16))
    categories = [(0, 'none'), (300, 'sky'), (5, 'cat'), (7, 'dog')]
    classes = [dict(id=number, name=name) for number, name in categories]
    (tmp_path / 'classes.json').write_text(json.dumps(classes))
    return tmp_path / 'maps', tmp_path / 'classes.json', tmp_path / 'new' / 'out'


def test_ids_become_contiguous(maps, monkeypatch, capsys):
    assert run_here(monkeypatch, TOOL, *maps) == 0
    assert '2 maps of 3 classes' in capsys.readouterr().out
    out = maps[-1]
    assert (out / 'classes.txt').read_text() == 'cat\ndog\nsky\n'
    found = [cv2.imread(str(out / name), cv2.IMREAD_UNCHANGED) for name in ('a.png', 'deep/b.png')]
    assert [image.tolist() for image in found] == [[[255, 1], [2, 0]], [[1, 1], [255, 0]]]
    assert all(image.dtype == np.uint8 for image in found)


def break_map(source, classes, out):
    (source / 'deep' / 'b.png').write_bytes(b'no image')


def color_map(source, classes, out):
    cv2.imwrite(str(source / 'a.png'), np.zeros((2, 2, 3), np.uint8))


def write_out(source, classes, out):
    out.mkdir(parents=True)
    (out / 'x').touch()


def remove_classes(source, classes, out):
    classes.unlink()


def garble_classes(source, classes, out):
    classes.write_text('[1, 2]')


def empty_classes(source, classes, out):
    classes.write_text('[{"id": 0, "name": "none"}]')


def empty_maps(source, classes, out):
    for file in source.rglob('*.png'):
        file.unlink()


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (break_map, 'b.png cannot be read'),
        (color_map, 'should have one channel, but is (2, 2, 3)'),
        (write_out, 'already exists'),
        (remove_classes, 'classes.json does not exist'),
        (garble_classes, 'should be a list as [{"id"'),
        (empty_classes, 'with ids from 1 to 65535, but it has 0'),
        (empty_maps, 'no label map (*.png) in'),
    ],
)
def test_bad_input_is_one_message_and_leaves_nothing(maps, monkeypatch, capsys, spoil, message):
    spoil(*maps)
    before = sorted(maps[-1].parent.parent.rglob('*'))
    assert run_here(monkeypatch, TOOL, *maps) == 2
    assert message in capsys.readouterr().err
    after = sorted(maps[-1].parent.parent.rglob('*'))
    assert [path for path in after if path not in before] in ([], [maps[-1].parent])
