# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import json

import cv2
import pytest
import torch

from mmmokd.analysis import linear_cka
from mmmokd.evaluation.locality import Locality
from mmmokd.evaluation.locality_report import (
    FILES,
    add_network,
    name_checkpoints,
    write_locality,
)
from mmmokd.evaluation.report import check_out
from mmmokd.utils.errors import ConfigError

FACTS = dict(config='c.py', checkpoints=[], images='some', num_images=10, seed=0)
TEXT = """\
Locality on 10 images of 4x4 pixels (some)

| network     | checkpoint | attention distance, px | % of diagonal | ERF area (4.55%), % | ERF area (50%), % | ERF radius (50%), px | ERF radius (80%), px |
| ----------- | ---------- | ---------------------- | ------------- | ------------------- | ----------------- | -------------------- | -------------------- |
| cnn.teacher | together   | –                      | –             | 56.2                | 56.2              | 1.00                 | 1.41                 |
| cnn.teacher | (uniform)  | –                      | –             | 100.0               | 100.0             | 1.58                 | 2.12                 |
| vit.teacher | together   | 1.20                   | 21.2          | 56.2                | 6.2               | 0.00                 | 1.41                 |
| vit.teacher | alone      | 1.50                   | 26.5          | 100.0               | 100.0             | 1.58                 | 2.12                 |
| vit.teacher | (uniform)  | 1.71                   | 30.2          | 100.0               | 100.0             | 1.58                 | 2.12                 |
"""  # noqa: E501
LAYERS = """\
| layer | checkpoint | mean | head 1 | head 2 |
| ----- | ---------- | ---- | ------ | ------ |
| 1     | together   | 1.40 | 1.20   | 1.60   |
| 1     | alone      | 1.50 | 1.50   | 1.50   |
| 2     | together   | 1.00 | 0.80   | 1.20   |
| 2     | alone      | 1.50 | 1.50   | 1.50   |
"""


def features(seed, channels):
    return torch.randn(10, channels, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def results():
    """Of a pair, and of its ViT alone. The fields are 3x3 pixels, those and a point, everything."""
    square = torch.zeros(4, 4, dtype=torch.float64)
    square[1:, 1:] = 1
    point = square * 0.1
    point[2, 2] = 1
    heads = [torch.tensor(layer) for layer in ([1.2, 1.6], [0.8, 1.2])]
    results = {}
    add = (
        ('together', 'cnn.teacher', Locality((4, 4), (1, 1), [], square, features(0, 3))),
        ('together', 'vit.teacher', Locality((4, 4), (2, 2), heads, point, features(1, 5))),
        (
            'alone',
            'vit.teacher',
            Locality(
                (4, 4), (2, 2), [torch.full((2,), 1.5)] * 2, square * 0 + 1, torch.ones(10, 5)
            ),
        ),
    )
    for each in add:
        add_network(results, *each)
    return results


def test_tables_figures_and_plot(results, tmp_path):
    out = check_out(tmp_path / 'new' / 'folder', FILES)
    text = write_locality(out, results, FACTS)
    assert text == (out / 'locality.md').read_text()
    assert text.startswith(TEXT) and LAYERS in text
    assert 'of vit.teacher by layer' in text and 'of cnn.teacher by layer' not in text
    found = json.loads((out / 'locality.json').read_text())
    assert found['image_size'] == [4, 4] and found['num_images'] == 10
    numbers = found['results']['together']
    ((cnn,), (vit,)) = numbers['cnn.teacher'], numbers['vit.teacher']
    assert cnn['attention_distance'] is None
    assert cnn['receptive_field']['area'] == {'0.0455': 0.5625, '0.5': 0.5625}
    attention = vit['attention_distance']
    assert attention['mean'] == pytest.approx(1.2)
    assert attention['pixels'] == [pytest.approx([1.2, 1.6]), pytest.approx([0.8, 1.2])]
    assert attention['share_of_diagonal'][1] == pytest.approx([0.8 / 32**0.5, 1.2 / 32**0.5])
    cka = found['linear_cka']
    assert cka['networks'] == [
        'together: cnn.teacher',
        'together: vit.teacher',
        'alone: vit.teacher',
    ]
    expected = linear_cka(features(0, 3), features(1, 5))
    assert cka['values'][0][1] == cka['values'][1][0] == pytest.approx(expected)
    assert cka['values'][2] == [None] * 3  # features that are all the same
    assert '| alone: vit.teacher    | –' in text
    assert cv2.imread(str(out / 'locality.png')) is not None


def test_of_one_network_there_is_nothing_to_be_similar_to(results, tmp_path):
    results.pop('alone')
    results['together'].pop('vit.teacher')
    text = write_locality(check_out(tmp_path, FILES), results, FACTS)
    assert 'CKA' not in text and 'by layer' not in text


def test_names_of_checkpoints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    odd = tmp_path / 'lr=0.1' / 'epoch_1.pth'
    odd.parent.mkdir()
    odd.touch()
    texts = ['alone=a/x.pth', 'alone=b/x.pth', 'runs/pair/epoch_1.pth', 'lr=0.1/epoch_1.pth']
    assert name_checkpoints(texts) == [
        ('alone', 'a/x.pth'),
        ('alone', 'b/x.pth'),
        ('pair/epoch_1', 'runs/pair/epoch_1.pth'),
        ('lr=0.1/epoch_1', 'lr=0.1/epoch_1.pth'),
    ]
    for text in ('=x.pth', 'alone='):
        with pytest.raises(ConfigError, match=f'NAME=CHECKPOINT, but got {text!r}'):
            name_checkpoints([text])
    with pytest.raises(ConfigError, match='a/x.pth is given twice'):
        name_checkpoints(['a/x.pth', 'again=a/x.pth'])


def test_runs_of_several_seeds(results, tmp_path):
    """Their mean and its standard error, and each run by itself."""
    (first,) = results['alone']['vit.teacher']
    shorter = [torch.full((2,), 1.0)] * 2
    add_network(results, 'alone', 'vit.teacher', first._replace(distances=shorter))
    text = write_locality(check_out(tmp_path, FILES), results, FACTS)
    # (1.5 + 1.0) / 2, and their deviation, 0.354, over sqrt(2)
    assert (
        '| vit.teacher | alone      | 1.25 ± 0.25            | 22.1 ± 4.4    | 100.0 ± 0.0' in text
    )
    assert '| 1     | alone (2)  | 1.00 | 1.00   | 1.00   |' in text
    assert 'alone (1): vit.teacher' in text
    found = json.loads((tmp_path / 'locality.json').read_text())['results']['alone']['vit.teacher']
    assert [run['attention_distance']['mean'] for run in found] == [1.5, 1.0]
