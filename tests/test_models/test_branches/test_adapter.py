# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""One contract for the backbones of mmpretrain and timm, whatever their output looks like."""

import math

import pytest
import torch
from mmengine.registry import DefaultScope
from mmpretrain.models.necks import GlobalAveragePooling
from mokd_testing import branch_cfg
from timm.layers import SelectAdaptivePool2d
from timm.layers.pool1d import global_pool_nlc
from torch import nn

from mmmokd.models.branches import Branch, adapt_features
from mmmokd.registry import MODELS
from mmmokd.structures import Views

VIT = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48)
# Where a dict says nothing, images are 64 x 96 and the map is 2 x 3.
FAMILIES = dict(
    resnet=dict(
        type='ResNet', depth=18, base_channels=16, stem_channels=16, drop_path_rate=0.5,
        zero_init_residual=False,
    ),
    resnet_cifar=(dict(type='ResNet_CIFAR', depth=18, stem_channels=8, base_channels=8), (8, 12)),
    regnet=dict(type='RegNet', arch='regnetx_400mf'),
    mobilenet_v2=dict(type='MobileNetV2', widen_factor=0.5),
    mobilenet_v3=dict(type='MobileNetV3', arch='small_050'),
    shufflenet_v2=dict(type='ShuffleNetV2', widen_factor=0.5),
    efficientnet=dict(type='EfficientNet', arch='b0', drop_path_rate=0.5),
    vgg=dict(type='VGG', depth=11, norm_cfg=dict(type='BN')),
    convnext=dict(
        type='ConvNeXt', arch='atto', drop_path_rate=0.5, gap_before_final_norm=False
    ),
    swin=dict(
        type='SwinTransformer', window_size=2, img_size=64, drop_path_rate=0.5,
        arch=dict(embed_dims=16, depths=[2, 1, 1, 1], num_heads=[1, 1, 2, 2]),
    ),
    davit=dict(
        type='DaViT', window_size=2, drop_path_rate=0.5,
        arch=dict(embed_dims=16, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2]),
    ),
    mobilevit=dict(type='MobileViT', arch='xx_small'),
    vit_raw=(
        dict(type='VisionTransformer', arch=VIT, img_size=64, out_type='raw', drop_path_rate=0.8),
        (4, 6),
    ),
    vit_raw_no_class_token=(
        dict(
            type='VisionTransformer', arch=VIT, img_size=64, out_type='raw', with_cls_token=False
        ),
        (4, 6),
    ),
    vit_map=(
        dict(type='VisionTransformer', arch=VIT, img_size=64, out_type='featmap'), (4, 6),
    ),
    vit_several_layers=(
        dict(
            type='VisionTransformer', arch=VIT, img_size=64, out_type='raw', out_indices=[0, 1]
        ),
        (4, 6),
    ),
    vit_ours=(
        dict(type='mmmokd.VisionTransformer', arch=VIT, img_size=64, drop_path_rate=0.8), (4, 6),
    ),
    deit_distilled=(
        dict(type='DistilledVisionTransformer', arch=VIT, img_size=64, out_type='raw'), (4, 6),
    ),
    beit=(
        dict(type='BEiTViT', arch=VIT, img_size=(64, 96), out_type='raw'), (4, 6),
    ),
    xcit_uncounted_class_token=(
        dict(
            type='XCiT', patch_size=16, embed_dims=32, depth=1, num_heads=2, cls_attn_layers=1,
            mlp_ratio=2, out_type='raw',
        ),
        (4, 6),
    ),
    t2t=(
        dict(
            type='T2T_ViT', img_size=64, embed_dims=32, num_layers=1, out_type='raw',
            t2t_cfg=dict(token_dims=16, use_performer=False),
            layer_cfgs=dict(num_heads=2, feedforward_channels=32),
        ),
        (4, 6),
    ),
    timm_resnet=dict(timm='resnet18'),
    timm_resnet_features=dict(timm='resnet18', features_only=True),
    timm_mobilenet_v3=dict(timm='mobilenetv3_small_050', drop_path_rate=0.5),
    timm_convnext=dict(timm='convnext_atto', drop_path_rate=0.5),
    timm_swin=dict(
        timm='swin_tiny_patch4_window7_224', img_size=(64, 96), window_size=2, embed_dim=16,
        depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), drop_path_rate=0.5,
    ),
    timm_swin_features=dict(
        timm='swin_tiny_patch4_window7_224', img_size=(64, 96), window_size=2, embed_dim=16,
        depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), drop_path_rate=0.5, features_only=True,
    ),
    timm_vit=(
        dict(timm='vit_tiny_patch16_224', dynamic_img_size=True, depth=2, drop_path_rate=0.8),
        (4, 6),
    ),
    timm_vit_features=(
        dict(
            timm='vit_tiny_patch16_224', dynamic_img_size=True, depth=2, features_only=True,
            out_indices=(1,),
        ),
        (4, 6),
    ),
    timm_vit_no_class_token=(
        dict(
            timm='vit_tiny_patch16_224', dynamic_img_size=True, depth=1, class_token=False,
            global_pool='avg',
        ),
        (4, 6),
    ),
    timm_vit_registers=(
        dict(
            timm='vit_small_patch14_reg4_dinov2', img_size=56, dynamic_img_size=True, depth=1,
            embed_dim=24, num_heads=2, size=(56, 84),
        ),
        (4, 6),
    ),
    timm_deit=(dict(timm='deit_tiny_patch16_224', dynamic_img_size=True, depth=1), (4, 6)),
    timm_cait=(
        dict(timm='cait_xxs24_224', img_size=64, depth=1, size=(64, 64)), (4, 4),
    ),
    timm_pvt=dict(timm='pvt_v2_b0', depths=(1, 1, 1, 1)),
    timm_twins=dict(timm='twins_pcpvt_small', depths=(1, 1, 1, 1), embed_dims=(16, 16, 32, 32),
                    num_heads=(1, 1, 2, 2)),
)  # fmt: skip


def family(name):
    """Config, image size and the map's (h, w) of a family."""
    entry = FAMILIES[name]
    cfg, grid = entry if isinstance(entry, tuple) else (entry, (2, 3))
    cfg = dict(cfg)
    size = cfg.pop('size', (64, 96))
    if 'timm' in cfg:
        cfg.update(type='TIMMBackbone', model_name=cfg.pop('timm'))
    return cfg, size, grid


def build(cfg):
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        backbone = MODELS.build(cfg)
    backbone.eval()  # That of some of mmpretrain's returns nothing.
    return backbone


def as_channels_first(backbone, output):
    fmt = str(getattr(getattr(backbone, 'timm_model', None), 'output_fmt', 'NCHW'))
    return output.permute(0, 3, 1, 2) if fmt.endswith('NHWC') else output


def pooled_by_the_library(backbone, images, output):
    """The class token or the mean over the map, as mmpretrain or timm itself gives it."""
    if output.dim() == 4:
        if hasattr(backbone, 'timm_model'):
            fmt = str(getattr(backbone.timm_model, 'output_fmt', 'NCHW')).split('.')[-1]
            return SelectAdaptivePool2d(pool_type='avg', flatten=True, input_fmt=fmt)(output)
        return GlobalAveragePooling()((output,))[-1]
    if hasattr(backbone, 'timm_model'):
        model = backbone.timm_model
        token = getattr(model, 'cls_token', None) is not None
        prefix = getattr(model, 'num_prefix_tokens', 1 if token else 0)
        return global_pool_nlc(output, 'token' if token else 'avg', num_prefix_tokens=prefix)
    if getattr(backbone, 'cls_token', None) is None:
        return output.mean(dim=1)
    backbone.out_type = 'cls_token'
    token = backbone(images)[-1]
    backbone.out_type = 'raw'
    return token[0] if isinstance(token, tuple) else token


def map_by_the_library(backbone, images, output):
    """The (B, C, h, w) map, where mmpretrain or timm itself gives one, else None."""
    if output.dim() == 4:
        return as_channels_first(backbone, output)
    if hasattr(getattr(backbone, 'timm_model', None), 'forward_intermediates'):
        model = backbone.timm_model
        maps = model.forward_intermediates(images, indices=1, norm=True, intermediates_only=True)[
            -1
        ]
        # Without a class token timm has its last norm behind the pooling.
        last_norm = getattr(model, 'fc_norm', nn.Identity())
        return last_norm(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    if hasattr(backbone, '_format_output') and 'featmap' in getattr(backbone, 'OUT_TYPES', ()):
        backbone.out_type = 'featmap'
        found = backbone(images)[-1]
        backbone.out_type = 'raw'
        return found
    return None


@pytest.mark.parametrize('name', FAMILIES)
def test_features_of_a_family(name):
    cfg, size, grid = family(name)
    backbone = build(cfg)
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        outputs = backbone(images)
        features = adapt_features(outputs, backbone, size)
        pooled = pooled_by_the_library(backbone, images, outputs[-1])
        maps = map_by_the_library(backbone, images, outputs[-1])
    channels = pooled.shape[1]
    assert features.grid == grid
    assert features.tokens.shape == (2, grid[0] * grid[1], channels)
    torch.testing.assert_close(features.pooled, pooled, rtol=1e-5, atol=1e-6)
    if maps is None:
        assert torch.equal(features.tokens, outputs[-1][:, -math.prod(grid) :])
        return
    for row in range(grid[0]):
        for column in range(grid[1]):
            torch.testing.assert_close(
                features.tokens[:, row * grid[1] + column], maps[:, :, row, column]
            )


@pytest.mark.parametrize('name', FAMILIES)
def test_a_family_as_a_branch(name):
    """It initializes, trains, and drops paths in the student alone."""
    cfg, size, grid = family(name)
    with torch.no_grad():
        channels = adapt_features(
            (backbone := build(cfg))(torch.rand(2, 3, *size)), backbone, size
        ).pooled.shape[1]
    template = branch_cfg('cnn')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        branch = Branch(
            backbone=cfg,
            projector=dict(template['projector'], in_channels=channels),
            search_head=dict(template['search_head'], in_channels=channels, grid_size=grid),
        )
    branch.init_weights()
    student, teacher = branch.student.state_dict(), branch.teacher.state_dict()
    assert student.keys() == teacher.keys()
    assert all(torch.equal(student[key], teacher[key]) for key in student)

    views = [torch.randn(2, 3, *size) for _ in range(3)]
    torch.manual_seed(0)
    views = Views(views[:2], views[2:])
    necks = ('projector', 'search_head')
    teachers = [branch.forward_teacher(views) for _ in range(2)]
    outputs = [branch.forward_student(views) for _ in range(2)]
    for neck in necks:
        assert outputs[0][neck].shape == (3, 2, 10) and teachers[0][neck].shape == (2, 2, 10)
        assert torch.equal(teachers[0][neck], teachers[1][neck])
    assert teachers[0].embedded('search_head')[0].shape == (4, grid[0] * grid[1], 24)
    drops = bool(cfg.get('drop_path_rate'))
    assert torch.equal(outputs[0]['projector'], outputs[1]['projector']) != drops

    sum(outputs[0][neck].square().sum() for neck in necks).backward()
    assert all(p.grad is None for p in branch.teacher.parameters())
    assert any(p.grad is not None for p in branch.student.backbone.parameters())


class Returns(nn.Module):
    """A backbone with a given output and given attributes."""

    def __init__(self, output, **attributes):
        super().__init__()
        self.output = output
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, images):
        return self.output


def adapt(output, size=(64, 64), **attributes):
    return adapt_features(output, Returns(output, **attributes), size)


def test_pair_of_map_and_class_token():
    maps, token = torch.randn(2, 5, 3, 4), torch.randn(2, 5)
    for output in ((maps, token), [(torch.rand(1, 1, 1, 1), torch.rand(1, 1)), (maps, token)]):
        features = adapt(output, (48, 64), cls_token=torch.rand(1))
        assert features.pooled is token and features.grid == (3, 4)
        torch.testing.assert_close(features.tokens, maps.flatten(2).transpose(1, 2))


def test_pair_of_tokens_and_class_token():
    tokens, token = torch.randn(2, 12, 5), torch.randn(2, 5)
    features = adapt((tokens, token), (48, 64), cls_token=torch.rand(1), num_extra_tokens=1)
    assert features.pooled is token and torch.equal(features.tokens, tokens)
    assert features.grid == (3, 4)


@pytest.mark.parametrize('patch', [4, 7, 16])
@pytest.mark.parametrize('rounding', [math.floor, math.ceil])
def test_grids_of_images_of_any_shape(patch, rounding):
    for height in range(16, 130, 6):
        for width in range(16, 130, 10):
            grid = rounding(height / patch), rounding(width / patch)
            tokens = torch.zeros(1, grid[0] * grid[1], 2)
            assert adapt(tokens, (height, width)).grid == grid


@pytest.mark.parametrize('side', [2, 3, 4, 6, 14])
@pytest.mark.parametrize('uncounted', [1, 2, 4])
def test_token_that_the_backbone_does_not_count(side, uncounted):
    """Also on small grids, where 9 + 1 tokens would make 2 x 5."""
    with pytest.raises(ValueError, match=f'gave {side**2 + uncounted} tokens .* form no grid'):
        adapt(torch.zeros(1, side**2 + uncounted, 8), (16 * side, 16 * side))


@pytest.mark.parametrize(
    ('cfg', 'found'),
    [
        (dict(type='VisionTransformer', arch=VIT, img_size=64), r'gave \(2, 24\)'),
        (
            dict(type='VisionTransformer', arch=VIT, img_size=64, out_type='avg_featmap'),
            r'VisionTransformer gave \(2, 24\), .*out_type',
        ),
        (dict(type='DistilledVisionTransformer', arch=VIT, img_size=64), r'gave \(2, 24\)'),
        (dict(type='ConvNeXt', arch='atto'), r'gave \(2, 320\), .*gap_before_final_norm'),
        (
            dict(
                type='TIMMBackbone', model_name='deit_tiny_distilled_patch16_224', img_size=64,
                depth=1,
            ),
            r'gave \(2, 192\)',
        ),
        (
            dict(
                type='MlpMixer', img_size=64,
                arch=dict(embed_dims=32, num_layers=1, tokens_mlp_dims=8, channels_mlp_dims=8),
            ),
            'MlpMixer gave 32 tokens for images of 64x64',
        ),
    ],
)  # fmt: skip
def test_output_that_cannot_be_read(cfg, found):
    backbone = build(cfg)
    with torch.no_grad(), pytest.raises(ValueError, match=found):
        adapt_features(backbone(torch.rand(2, 3, 64, 64)), backbone, (64, 64))


@pytest.mark.parametrize(
    ('output', 'found'),
    [((), 'gave tuple'), (None, 'gave NoneType'), ({'x': 1}, 'gave dict'), ('map', 'gave str'),
     (torch.rand(2, 3, 1, 1, 1), r'gave \(2, 3, 1, 1, 1\)')],
)  # fmt: skip
def test_output_that_is_none_of_a_backbone(output, found):
    with pytest.raises(ValueError, match=f'the backbone Returns {found}'):
        adapt(output)
