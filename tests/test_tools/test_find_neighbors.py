# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""From a frozen teacher to a run on bags of its neighbors, by the commands."""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from config_testing import draw_image
from offline_testing import build, offline_cfg
from torch.nn.functional import normalize

from mmmokd.datasets import LoadImage

IMAGES = 10
TOOL = Path(__file__).parents[2] / 'tools' / 'dataset_converters' / 'find_neighbors.py'
CONFIG = """
default_scope = 'mmpretrain'
model = {model!r}
data_preprocessor = None
pipeline = [
    dict(type='mmmokd.LoadImage', to_rgb=True),
    dict(type='mmmokd.MultiCrop', groups=[dict(num=2, size=32, scale=(0.5, 1.0))]),
    dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='mmmokd.NeighborBags',
        neighbors={neighbors!r},
        num_neighbors=3,
        dataset=dict(type='mmmokd.ImageFolder', data_root={root!r}, pipeline=pipeline)))
"""


@pytest.fixture
def config(tmp_path):
    root, rng = tmp_path / 'images', np.random.default_rng(0)
    for number in range(IMAGES):
        draw_image(root / f'{number:02}.png', rng, size=40)
    path, neighbors = tmp_path / 'bingo.py', tmp_path / 'out' / 'neighbors.npz'
    model = offline_cfg('BINGO', tmp_path)
    model['data_preprocessor'] = dict(
        type='SelfSupDataPreprocessor', mean=[128.0] * 3, std=[64.0] * 3
    )
    path.write_text(CONFIG.format(model=model, neighbors=str(neighbors), root=str(root)))
    return path, neighbors, root


def run(monkeypatch, *args):
    monkeypatch.setattr(sys, 'argv', [str(TOOL), *map(str, args)])
    runpy.run_path(str(TOOL), run_name='__main__')


def test_neighbors_are_the_teachers(config, monkeypatch, capsys, tmp_path):
    """Of images without labels, as the teacher sees them alone, resized and cropped."""
    path, neighbors, root = config
    run(monkeypatch, path)
    assert f'3 neighbors of each of {IMAGES} images, by vit: {neighbors}' in capsys.readouterr().out
    found = np.load(neighbors)['neighbors']
    files = sorted(root.rglob('*.png'))
    images = [LoadImage(to_rgb=True)(dict(img_path=str(file)))['img'] for file in files]
    resized = torch.stack([_resize(image) for image in images])
    teacher = build(offline_cfg('BINGO', tmp_path)).branches['vit'].eval()
    with torch.no_grad():
        features = normalize(teacher.teacher.extract((resized - 128) / 64).pooled)
    cosines = (features @ features.T).fill_diagonal_(-2)
    assert (found == cosines.topk(3).indices.numpy()).mean() > 0.95


def _resize(image):
    """To 32 pixels by Pillow, as ``ResizeEdge`` does it; the images are square."""
    from PIL import Image

    resized = np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC))
    return torch.from_numpy(resized.copy()).permute(2, 0, 1).float()


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['--branch', 'cnn'], 'frozen branches of .* are vit, but got --branch cnn'),
        (
            ['--cfg-options', 'model.branches.vit.backbone.init_cfg.checkpoint=none.pth'],
            'none.pth does not exist',
        ),
    ],
)
def test_refuses(args, message, config, monkeypatch, capsys):
    path, neighbors, _ = config
    with pytest.raises(SystemExit):
        run(monkeypatch, path, *args)
    assert re.search(message, capsys.readouterr().err)
    assert not neighbors.exists()
