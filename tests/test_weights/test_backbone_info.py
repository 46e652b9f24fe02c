# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""A backbone told from its weights alone, whose config builds it again."""

import pytest
import timm
from weights_testing import build

from mmmokd.weights import describe_weights, inspect_weights
from mmmokd.weights.vit_names import VIT_NAMES, rename_vit

ARCH = dict(embed_dims=128, num_layers=3, num_heads=2, feedforward_channels=256)
VIT = dict(type='mmmokd.VisionTransformer', arch=ARCH, img_size=64, patch_size=16)
NARROW = dict(stem_channels=4, base_channels=8)


@pytest.mark.parametrize(
    ('cfg', 'text', 'told'),
    [
        (
            dict(type='ResNet', depth=34, **NARROW),
            'a ResNet of 3-4-6-3 basic blocks, 8 wide',
            dict(blocks=(3, 4, 6, 3), block='basic', width=8, patch=None),
        ),
        (
            dict(type='ResNet', depth=101, in_channels=1, **NARROW),
            'a ResNet of 3-4-23-3 bottleneck blocks, 8 wide',
            dict(blocks=(3, 4, 23, 3), block='bottleneck', width=8, is_vit=False),
        ),
        (
            VIT,
            'a ViT of 3 layers, 128 wide, with patches of 16',
            dict(blocks=(3,), width=128, patch=16, img_size=64, heads=2, mlp_ratio=2, is_vit=True),
        ),
        (
            dict(VIT, in_channels=4, qkv_bias=False, layer_scale_init_value=0.1),
            'a ViT of 3 layers, 128 wide, with patches of 16',
            dict(class_token=True, registers=0),
        ),
    ],
)
def test_standard_models_are_built_again(cfg, text, told):
    weights = build(dict(cfg)).state_dict()
    info = inspect_weights(weights)
    again = build(dict(info.cfg)).state_dict()
    assert str(info) == describe_weights(weights) == text
    assert {key: getattr(info, key) for key in told} == told
    shapes = {key: value.shape for key, value in weights.items()}
    assert {key: value.shape for key, value in again.items()} == shapes


def test_names_of_every_library_tell_the_same():
    weights = build(dict(VIT)).state_dict()
    for library in VIT_NAMES:
        renamed = rename_vit(weights, 'mmpretrain', library)
        assert inspect_weights(renamed) == inspect_weights(weights)


def test_what_is_not_told():
    no_token = build(dict(VIT, with_cls_token=False, out_type='avg_featmap')).state_dict()
    deep = build(dict(type='ResNetV1d', depth=50, **NARROW)).state_dict()
    odd_heads = build(dict(VIT, arch=dict(ARCH, embed_dims=24))).state_dict()
    wide = build(dict(VIT, img_size=(32, 64))).state_dict()
    registers = timm.create_model('vit_tiny_patch16_224', reg_tokens=4, depth=1).state_dict()
    other = build(dict(type='MobileNetV2', widen_factor=0.1)).state_dict()
    for weights in (no_token, deep, odd_heads, wide, registers):
        assert inspect_weights(weights).cfg is None
    info = inspect_weights(no_token)
    assert (info.class_token, info.img_size) == (False, 64)
    assert inspect_weights(wide).img_size is None
    assert inspect_weights(registers)[8:11] == (True, 4, 224)
    assert describe_weights(registers).endswith('with patches of 16 and 4 registers')
    assert inspect_weights(other) is None
    assert describe_weights(other).startswith('a model of 312 weights (conv1.conv.weight, conv1.bn')
