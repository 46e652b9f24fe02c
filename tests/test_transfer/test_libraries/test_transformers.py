# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""A branch in Hugging Face transformers, where that is installed; its keys, in any case."""

import builtins

import numpy as np
import pytest
import torch
from torch import nn
from weights_testing import build, randomize, run_double

from mmmokd.transfer.branch_info import complete_info
from mmmokd.transfer.export import key_report
from mmmokd.transfer.libraries import Transformers, build_library
from mmmokd.transfer.libraries.transformers import resnet_name
from mmmokd.weights.backbone_info import Pixels

VIT = dict(
    type='mmmokd.VisionTransformer',
    img_size=32,
    patch_size=16,
    arch=dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48),
)
CASES = [
    VIT,
    dict(type='ResNet', depth=18, base_channels=8, stem_channels=8),
    dict(type='ResNet', depth=50, base_channels=8),
    dict(type='ResNet', depth=50, base_channels=8, style='caffe'),
]
PIXELS = Pixels([127.5, 51.0, 102.0], [51.0, 51.0, 102.0], True)


@torch.no_grad()
@pytest.mark.parametrize('cfg', CASES, ids=['vit', 'r18', 'r50', 'r50-caffe'])
def test_features_are_the_branchs(cfg, tmp_path):
    transformers = pytest.importorskip('transformers')
    backbone = build(dict(cfg))
    randomize(backbone)
    weights = backbone.state_dict()
    target = build_library('transformers', complete_info(weights, cfg)._replace(pixels=PIXELS))
    assert key_report(target.model, target.convert(weights), 'x')[1].endswith('(100 %)')
    folder = tmp_path / 'out'
    target.write(folder, {}, False)
    assert sorted(file.name for file in tmp_path.iterdir()) == ['out']

    model, info = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())  # nothing is drawn at random, the pooler neither
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    expected = run_double(backbone, images)[-1]
    expected = expected[:, 0] if expected.ndim == 3 else expected.mean((2, 3))
    found = run_double(model, images).pooler_output.flatten(1)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)

    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    image = np.full((40, 60, 3), 204, np.uint8)
    pixels = processor(image, return_tensors='pt')['pixel_values']
    side = 32 if cfg is VIT else 224
    assert pixels.shape == (1, 3, side, side)
    torch.testing.assert_close(pixels[0, :, 0, 0], torch.tensor([1.5, 3.0, 1.0]))


class WithoutModel(Transformers):
    def build(self):
        return nn.Identity()


def test_names():
    keys = ('bn1.running_var', 'layer2.3.conv3.weight', 'layer4.0.downsample.1.weight')
    assert [resnet_name(key) for key in keys] == [
        'embedder.embedder.normalization.running_var',
        'encoder.stages.1.layers.3.layer.2.convolution.weight',
        'encoder.stages.3.layers.0.shortcut.normalization.weight',
    ]
    weights = build(dict(VIT)).state_dict()
    found = WithoutModel('transformers', complete_info(weights, VIT)).convert(weights)
    qkv = weights['layers.1.attn.qkv.weight']
    assert torch.equal(found['encoder.layer.1.attention.attention.key.weight'], qkv[24:48])
    assert torch.equal(found['pooler.dense.weight'], torch.eye(24))
    assert len(found) == len(weights) + 2 * 2 * 2 + 2


def test_without_the_library(monkeypatch):
    find = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition('.')[0] == 'transformers':
            raise ImportError('No module named transformers')
        return find(name, *args, **kwargs)

    cfg = dict(CASES[1])
    weights = build(dict(cfg)).state_dict()
    monkeypatch.setattr(builtins, '__import__', without)
    with pytest.raises(ValueError, match=r'transformers cannot be imported .*pip install -r requ'):
        build_library('transformers', complete_info(weights, cfg))


def test_another_backbone_is_refused():
    cfg = dict(type='MobileNetV2', widen_factor=0.35)
    with pytest.raises(
        ValueError, match='--to transformers takes a ResNet, and a ViT .*MobileNetV2'
    ):
        build_library('transformers', complete_info(build(dict(cfg)).state_dict(), cfg))
