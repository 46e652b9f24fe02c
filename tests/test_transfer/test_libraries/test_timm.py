# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""mmpretrain's backbones in timm: every weight, and the same features in double precision."""

from pathlib import Path

import pytest
import timm
import torch
from weights_testing import build, randomize, run_double

from mmmokd.transfer.branch_info import complete_info
from mmmokd.transfer.export import key_report
from mmmokd.transfer.libraries import build_library

CONVNEXT = dict(type='ConvNeXt', arch=dict(depths=[1, 1, 2, 1], channels=[8, 16, 24, 32]))
SWIN = dict(type='SwinTransformer', arch=dict(embed_dims=8, depths=[2] * 4, num_heads=[1, 2, 2, 4]))
VIT = dict(
    type='mmmokd.VisionTransformer',
    img_size=32,
    patch_size=16,
    arch=dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48),
    out_type='cls_token',
)
# Each with the beginning of the call that builds it in timm.
SAME = [
    (CONVNEXT, "'convnext_tiny', depths=(1, 1, 2, 1), dims=(8, 16, 24, 32), num"),
    (dict(CONVNEXT, gap_before_final_norm=False), "'convnext_tiny', depths"),
    (dict(CONVNEXT, use_grn=True, layer_scale_init_value=0.0), "'convnextv2_tiny', depths"),
    (dict(CONVNEXT, norm_cfg=dict(type='LN2d', eps=1e-3)), "'convnext_tiny', depths"),
    (dict(CONVNEXT, linear_pw_conv=False, in_channels=1), "'convnext_tiny', depths"),
    (SWIN, "'swin_tiny_patch4_window7_224', img_size=224"),
    (dict(SWIN, pad_small_map=True, out_indices=(1, 3)), "'swin_tiny_patch4_window7_224', img_s"),
    (dict(SWIN, img_size=64, window_size=2), "'swin_tiny_patch4_window7_224', img_size=64"),
    (dict(type='MobileNetV2', widen_factor=0.35), "'mobilenetv2_035', num_classes=0"),
    (dict(type='MobileNetV3', arch='small_050'), "'mobilenetv3_small_050', features_only=True"),
    (dict(type='MobileNetV3', arch='large'), "'mobilenetv3_large_100', features_only=True"),
    (dict(type='EfficientNet', arch='b0'), "'tf_efficientnet_b0', num_classes=0"),
    (dict(type='EfficientNet', arch='b0', conv_cfg=None), "'efficientnet_b0', bn_eps=0.001"),
    (dict(type='EfficientNet', arch='es', act_cfg=dict(type='ReLU')), "'tf_efficientnet_es', num"),
    (dict(type='ResNet', depth=18, in_channels=3, norm_cfg=dict(type='BN')), "'resnet18', num"),
    (dict(VIT, qkv_bias=False), "'vit_base_patch16_224', img_size=32"),
]


def transfer(cfg, library='timm', **kwargs):
    """The backbone with random weights and statistics, the library's model with them, the report."""
    backbone = build(dict(cfg))
    randomize(backbone)
    weights = backbone.state_dict()
    target = build_library(library, complete_info(weights, cfg, **kwargs))
    return backbone, target, key_report(target.model, target.convert(weights), 'here')


@torch.no_grad()
@pytest.mark.parametrize(
    ('cfg', 'call'), SAME, ids=[f'{c["type"]}-{n}' for n, (c, _) in enumerate(SAME)]
)
def test_features_are_the_backbones(cfg, call):
    backbone, target, report = transfer(cfg)
    assert f'timm.create_model({call}' in target.usage(Path('x.pth'))
    assert report[1].endswith('(100 %)')
    side = cfg.get('img_size', 224 if cfg['type'] == 'SwinTransformer' else 80)
    images = torch.rand(2, cfg.get('in_channels', 3), side, side, dtype=torch.float64)
    expected = run_double(backbone, images)[-1]
    found = run_double(target.model, images)
    found = found[-1].mean((2, 3)) if isinstance(found, list) else found
    expected = expected.mean((2, 3)) if expected.ndim == 4 else expected
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (
            dict(type='RegNet', arch='regnetx_400mf'),
            '--to timm takes a ResNet, a ViT .*is RegNet w',
        ),
        (dict(type='MobileNetV2', widen_factor=0.25), 'timm has no mobilenetv2_025'),
        (
            dict(SWIN, img_size=256),
            'images should be a multiple of 224 pixels wide, not 256: see --',
        ),
        (dict(VIT, with_cls_token=False, out_type='featmap'), 'takes .* a ViT with a class token'),
        (
            dict(type='TIMMBackbone', model_name='resnet10t', no_such=1),
            'timm cannot build timm.cre',
        ),
    ],
)
def test_what_timm_lacks_is_refused(cfg, message):
    weights = {} if cfg['type'] in ('RegNet', 'TIMMBackbone') else build(dict(cfg)).state_dict()
    with pytest.raises(ValueError, match=message):
        build_library('timm', complete_info(weights, cfg))


def test_swin_for_another_size():
    _, target, _ = transfer(dict(SWIN, img_size=256), img_size=448)
    assert 'img_size=448' in target.usage(Path('x.pth'))


@torch.no_grad()
@pytest.mark.parametrize(
    'cfg',
    [
        dict(model_name='mobilenetv3_small_050', features_only=True, out_indices=(2, 4)),
        dict(model_name='vit_tiny_patch16_224', img_size=32, embed_dim=24, depth=2, num_heads=2),
        dict(model_name='resnet10t', in_channels=1, pretrained=True, checkpoint_path='gone.pth'),
        dict(model_name='convnext_atto', features_only=True),
    ],
    ids=lambda cfg: cfg['model_name'],
)
def test_a_timm_backbone_goes_back_by_its_own_name(cfg, tmp_path):
    cfg = dict(type='TIMMBackbone', **cfg)
    bare = {k: v for k, v in cfg.items() if k not in ('pretrained', 'checkpoint_path')}
    backbone = build(bare)
    randomize(backbone)
    target = build_library('timm', complete_info(backbone.state_dict(), cfg))
    key_report(target.model, target.convert(backbone.state_dict()), 'here')
    torch.save(target.model.state_dict(), tmp_path / 'out.pth')
    scope = dict(timm=timm, torch=torch)
    exec(target.usage(tmp_path / 'out.pth'), scope)  # by timm alone
    own = backbone.timm_model.state_dict()
    loaded = scope['model'].state_dict()
    assert loaded.keys() == own.keys()
    assert all(torch.equal(value, own[key]) for key, value in loaded.items())
