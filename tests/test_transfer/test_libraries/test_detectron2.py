# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""detectron2 is in no package index: its keys, and its forward pass, are told here once more."""

import pickle
import pickletools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from weights_testing import build, randomize, run_double

from mmmokd.transfer.branch_info import complete_info
from mmmokd.transfer.libraries import build_library
from mmmokd.weights.backbone_info import Pixels

PIXELS = Pixels([123.675, 116.28, 103.53], [58.395, 57.12, 57.375], True)


def published_name(key):
    """As the converters of detectron2 and of MoCo name a weight of torchvision's ResNet."""
    if 'layer' not in key:
        key = f'stem.{key}'
    for stage in (1, 2, 3, 4):
        key = key.replace(f'layer{stage}', f'res{stage + 1}')
    for number in (1, 2, 3):
        key = key.replace(f'bn{number}', f'conv{number}.norm')
    return key.replace('downsample.0', 'shortcut').replace('downsample.1', 'shortcut.norm')


def detectron2_forward(weights, images, depths, bottleneck, stride_in_1x1):
    """The last map of its ResNet, with frozen batch norm, from the weights of the file alone."""

    def conv(x, name, stride=1, relu=True):
        weight = weights[f'{name}.weight']
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        keys = ('running_mean', 'running_var', 'weight', 'bias')
        x = F.batch_norm(x, *(weights[f'{name}.norm.{key}'] for key in keys), eps=1e-5)
        return x.relu() if relu else x

    x = F.max_pool2d(conv(images, 'stem.conv1', 2), 3, 2, 1)
    for stage, depth in enumerate(depths, 2):
        for block in range(depth):
            name = f'res{stage}.{block}'
            stride = 2 if stage > 2 and block == 0 else 1
            shortcut = x
            if f'{name}.shortcut.weight' in weights:
                shortcut = conv(x, f'{name}.shortcut', stride, relu=False)
            if bottleneck:
                first, second = (stride, 1) if stride_in_1x1 else (1, stride)
                x = conv(conv(x, f'{name}.conv1', first), f'{name}.conv2', second)
                x = conv(x, f'{name}.conv3', relu=False)
            else:
                x = conv(conv(x, f'{name}.conv1', stride), f'{name}.conv2', relu=False)
            x = (x + shortcut).relu()
    return x


@torch.no_grad()
@pytest.mark.parametrize(
    ('cfg', 'depths', 'lines'),
    [
        (dict(depth=18), (2, 2, 2, 2), ['    STRIDE_IN_1X1: False', '    RES2_OUT_CHANNELS: 64']),
        (
            dict(depth=50, base_channels=8, stem_channels=16),
            (3, 4, 6, 3),
            ['    STEM_OUT_CHANNELS: 16', '    RES2_OUT_CHANNELS: 32', '    WIDTH_PER_GROUP: 8'],
        ),
        (
            dict(depth=50, base_channels=8, style='caffe'),
            (3, 4, 6, 3),
            ['    STRIDE_IN_1X1: True'],
        ),
    ],
)
def test_file_is_detectron2s(cfg, depths, lines, tmp_path):
    cfg = dict(type='ResNet', **cfg)
    backbone = build(dict(cfg))
    randomize(backbone)
    weights = backbone.state_dict()
    target = build_library('detectron2', complete_info(weights, cfg)._replace(pixels=PIXELS))
    target.model.load_state_dict(weights)
    out = tmp_path / 'out.pkl'
    target.write(out, {}, False)

    globals_ = {arg for op, arg, _ in pickletools.genops(out.read_bytes()) if op.name == 'GLOBAL'}
    assert not any('_core' in name for name in globals_)
    assert b'numpy._core' not in out.read_bytes()  # which NumPy 1 has not
    content = pickle.loads(out.read_bytes())
    assert content.pop('__author__') == 'mmmokd' and content.pop('matching_heuristics') is True
    arrays = content.pop('model')
    assert not content
    assert set(arrays) == {published_name(key) for key in weights}
    for array in arrays.values():
        array[...] = array.copy()  # can be written to
    for key, value in weights.items():
        assert np.array_equal(arrays[published_name(key)], value.numpy())

    images = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    double = {key: torch.from_numpy(array).double() for key, array in arrays.items()}
    settings = dict(bottleneck=cfg['depth'] >= 50, stride_in_1x1=cfg.get('style') == 'caffe')
    found = detectron2_forward(double, images, depths, **settings)
    expected = run_double(backbone, images)[-1]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    usage = target.usage(out).splitlines()
    assert set(lines) <= set(usage) and usage[:2] == ['MODEL:', f'  WEIGHTS: {out}']
    assert '  PIXEL_MEAN: [123.675, 116.28, 103.53]' in usage and usage[-1] == '  FORMAT: RGB'
