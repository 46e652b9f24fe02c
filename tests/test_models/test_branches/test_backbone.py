# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import copy
import inspect

import pytest
import torch
from mmengine.registry import DefaultScope
from mmpretrain.models.backbones import ConvNeXt, SwinTransformer, TIMMBackbone

from mmmokd.models.branches import (
    adapt_features,
    build_backbone,
    describe_backbone,
    infer_features,
)
from mmmokd.models.branches.backbone import FOR_MAPS, FOR_SIZES, MAP_ONLY, has_argument
from mmmokd.registry import MODELS

VIT = dict(embed_dims=24, num_layers=1, num_heads=2, feedforward_channels=48)
TIMM_VIT = dict(
    type='TIMMBackbone', model_name='vit_tiny_patch16_224', depth=1, embed_dim=24, num_heads=2
)
TIMM_SWIN = dict(
    type='TIMMBackbone', model_name='swin_tiny_patch4_window7_224', embed_dim=16,
    depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2),
)  # fmt: skip
SWIN_ARCH = dict(embed_dims=16, depths=[2, 2, 2, 2], num_heads=[1, 1, 2, 2])
SWIN = dict(type='SwinTransformer', arch=SWIN_ARCH, window_size=7, img_size=224)

# Backbone, and the map's side by the image's. None of these takes both sizes as its library builds it.
SEVERAL_SIZES = dict(
    timm_vit=(TIMM_VIT, {224: 14, 96: 6, 40: 3}),
    timm_vit_features=(dict(TIMM_VIT, features_only=True, out_indices=(0,)), {224: 14, 96: 6}),
    timm_patch_14=(
        dict(
            TIMM_VIT, model_name='vit_small_patch14_reg4_dinov2', img_size=224,
        ),
        {224: 16, 96: 7, 64: 5},
    ),
    timm_dinov3=(dict(TIMM_VIT, model_name='vit_small_patch16_dinov3'), {64: 4, 40: 3}),
    timm_eva=(dict(TIMM_VIT, model_name='eva02_tiny_patch14_224'), {224: 16, 64: 5}),
    timm_swin=(TIMM_SWIN, {224: 7, 96: 3, 40: 2, 32: 1}),
    timm_swin_v2=(
        dict(TIMM_SWIN, model_name='swinv2_tiny_window8_256', img_size=128), {128: 4, 96: 3, 40: 2},
    ),
    swin=(SWIN, {224: 7, 96: 3, 40: 2}),
    swin_v2=(
        dict(
            SWIN, type='SwinTransformerV2', window_size=8,
            arch=dict(SWIN_ARCH, extra_norm_every_n_blocks=0),
        ), {224: 7, 96: 3, 40: 2}),
    davit=(
        dict(type='DaViT', arch=dict(SWIN_ARCH, depths=[1, 1, 1, 1])), {224: 7, 96: 3}),
    vit_patch_14=(
        dict(type='mmmokd.VisionTransformer', arch=VIT, img_size=224, patch_size=14),
        {224: 16, 96: 7, 64: 5},
    ),
    # Of these the default is a pooled feature, which no branch can search.
    vit=(dict(type='VisionTransformer', arch=VIT, img_size=64), {64: 4, 40: 3}),
    deit_distilled=(dict(type='DistilledVisionTransformer', arch=VIT, img_size=64), {64: 4, 40: 3}),
    convnext=(dict(type='ConvNeXt', arch=dict(depths=[1, 1, 1, 1], channels=[8] * 4)), {64: 2, 32: 1}),
    edgenext=(dict(type='EdgeNeXt', arch='xxsmall'), {64: 2, 32: 1}),
    hornet=(
        dict(
            type='HorNet',
            arch=dict(
                base_dim=16, depths=[1, 1, 1, 1], orders=[2, 3, 4, 5],
                dw_cfg=[dict(type='DW', kernel_size=7)] * 4,
            ),
        ),
        {64: 2, 32: 1},
    ),
)  # fmt: skip


def build(cfg, builder=build_backbone):
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        backbone = builder(cfg)
    backbone.eval()
    return backbone


def outputs(backbone, side):
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(side))
    with torch.no_grad():
        return backbone(images)[-1]


@pytest.mark.parametrize('name', SEVERAL_SIZES)
def test_several_sizes(name):
    """By themselves, in the teacher's copy too; otherwise the library's own model, weight by weight."""
    cfg, grids = SEVERAL_SIZES[name]
    ours = build(cfg)
    for backbone in (ours, copy.deepcopy(ours)):
        for side, grid in grids.items():
            output = backbone(torch.zeros(1, 3, side, side))
            assert adapt_features(output, backbone, (side, side)).grid == (grid, grid)
    weights = build(cfg, MODELS.build).state_dict()
    assert list(weights) == list(ours.state_dict())
    assert all(torch.equal(value, weights[key]) for key, value in ours.state_dict().items())


@pytest.mark.parametrize('cfg', [TIMM_VIT, TIMM_SWIN, SWIN], ids=['vit', 'timm_swin', 'swin'])
def test_nothing_changes_where_the_library_takes_the_size(cfg):
    assert torch.equal(outputs(build(cfg), 224), outputs(build(cfg, MODELS.build), 224))


def test_small_maps_are_padded_as_with_the_argument():
    ours, padded = build(SWIN), build(dict(SWIN, pad_small_map=True), MODELS.build)
    assert torch.equal(outputs(ours, 96), outputs(padded, 96))


def test_what_the_config_says_is_kept():
    for cfg, side, message in (
        (dict(TIMM_VIT, dynamic_img_size=False), 96, r"Input height \(96\) doesn't match"),
        (dict(TIMM_SWIN, strict_img_size=True), 96, r"Input height \(96\) doesn't match"),
        (dict(SWIN, pad_small_map=False), 96, 'smaller than the window'),
    ):
        backbone = build(cfg)
        with pytest.raises(AssertionError, match=message):
            outputs(backbone, side)
    vit = dict(type='VisionTransformer', arch=VIT, img_size=64, out_type='avg_featmap')
    assert outputs(build(vit), 64).shape == (2, 24)


@pytest.mark.parametrize(
    'model_name', ['mobilenetv3_small_050', 'hrnet_w18_small', 'poolformer_s12']
)
def test_models_of_timm_that_take_none_of_the_arguments(model_name):
    """They are refused in two ways; neither draws a random number more."""
    cfg = dict(type='TIMMBackbone', model_name=model_name)
    weights = build(cfg, MODELS.build).state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in build(cfg).state_dict().items())


TIMM_POOLING = [
    dict(model_name='inception_next_atto', dims=(8, 8, 16, 16)),  # refuses to leave it out
    dict(model_name='deit_tiny_distilled_patch16_224', depth=1),  # does it without asking
]


@pytest.mark.parametrize('cfg', TIMM_POOLING, ids=['refuses', 'pools'])
def test_models_of_timm_that_pool_give_maps(cfg):
    """They are the library's own of the same arguments, weight by weight."""
    cfg = dict(cfg, type='TIMMBackbone')
    ours, own = build(cfg), build(dict(cfg, **MAP_ONLY), MODELS.build)
    weights = own.state_dict()
    assert list(ours.state_dict()) == list(weights)
    assert all(torch.equal(v, weights[k]) for k, v in ours.state_dict().items())
    assert outputs(ours, 96).dim() == 4 and torch.equal(outputs(ours, 224), outputs(own, 224))


def test_pooling_that_the_config_asks_for_is_kept():
    refuses, pools = (dict(cfg, type='TIMMBackbone', features_only=False) for cfg in TIMM_POOLING)
    with pytest.raises(AssertionError, match='Cannot disable pooling'):
        build(refuses)
    with pytest.raises(ValueError, match=r'gave \(1, 192\), .* set `features_only=True`'):
        infer_features(build(pools))


def test_a_mistyped_argument_is_refused():
    with pytest.raises(TypeError, match='unexpected keyword argument.* .?depht'):
        build(dict(TIMM_VIT, depht=1))


def test_the_log_says_what_was_set(monkeypatch):
    said = []
    monkeypatch.setattr(
        'mmmokd.models.branches.backbone.print_log', lambda text, **kwargs: said.append(text)
    )
    for cfg in (TIMM_VIT, dict(SWIN, arch='tiny'), dict(type='ResNet', depth=18)):
        build(cfg)
    assert [text.partition(' is a branch')[0] for text in said] == [
        'TIMMBackbone (vit_tiny_patch16_224)',
        'SwinTransformer (tiny)',
    ]
    assert said[0].endswith('is built with dynamic_img_size=True, dynamic_img_pad=True')
    assert said[1].endswith('with pad_small_map=True where a map is smaller than a window')


def test_arguments_of_classes():
    assert has_argument(ConvNeXt, 'gap_before_final_norm')
    assert has_argument(MODELS.get('VisionTransformer'), 'final_norm')  # by mmpretrain's **kwargs
    assert not has_argument(SwinTransformer, 'dynamic_img_size')
    assert not has_argument(inspect, 'x')
    assert not (set(FOR_MAPS) | set(FOR_SIZES)) & set(inspect.signature(TIMMBackbone).parameters)


def test_names_of_backbones():
    assert describe_backbone(dict(type='mmpretrain.ResNet', depth=18)) == 'ResNet'
    assert describe_backbone(dict(type=ConvNeXt, arch='atto')) == 'ConvNeXt (atto)'
    assert describe_backbone(TIMM_VIT) == 'TIMMBackbone (vit_tiny_patch16_224)'
