# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from mmengine.registry import DefaultScope

from mmmokd.models.branches import BackboneSpec, build_backbone, infer_features
from mmmokd.models.branches.inference import ImageSizeError, native_size

VIT = dict(embed_dims=24, num_layers=1, num_heads=2, feedforward_channels=48)
TIMM_VIT = dict(
    type='TIMMBackbone', model_name='vit_small_patch14_reg4_dinov2', img_size=56, depth=1,
    embed_dim=24, num_heads=2,
)  # fmt: skip
RESNET = dict(type='ResNet', depth=18, base_channels=8, stem_channels=8)


def build(cfg):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return build_backbone(cfg)


@pytest.mark.parametrize(
    ('cfg', 'size', 'channels', 'grid'),
    [
        (RESNET, None, 64, (7, 7)),  # made for no size: 224
        (RESNET, (64, 96), 64, (2, 3)),
        (TIMM_VIT, None, 24, (4, 4)),
        (TIMM_VIT, 60, 24, (5, 5)),  # no multiple of the patch
        (dict(type='BEiTViT', arch=VIT, img_size=(64, 96)), None, 24, (4, 6)),  # no other size
        (
            dict(type='TIMMBackbone', model_name='resnet10t', features_only=True), 64, 512, (2, 2),
        ),
    ],
)  # fmt: skip
def test_channels_and_grid(cfg, size, channels, grid):
    spec = infer_features(build(cfg), size)
    assert spec[:3] == (channels, channels, grid)


def test_channels_of_the_images():
    backbone = build(dict(RESNET, in_channels=1))
    assert infer_features(backbone, 64, image_channels=1) == BackboneSpec(64, 64, (2, 2), (64, 64))
    with pytest.raises(ValueError, match='backbone ResNet cannot take an image of 3x64x64: Given'):
        infer_features(backbone, 64)


def test_a_size_that_it_does_not_take():
    message = (
        r'BEiTViT, made for images of 64x96 \(img_size\), cannot take an image of 3x64x64: The'
    )
    with pytest.raises(ImageSizeError, match=message):
        infer_features(build(dict(type='BEiTViT', arch=VIT, img_size=(64, 96))), 64)


def test_nothing_changes():
    """Weights, statistics, modes, gradients and random numbers, also where stages are frozen."""
    backbone = build(dict(RESNET, frozen_stages=1, norm_eval=True, drop_path_rate=0.5))
    backbone.layer3.eval()
    modes = [module.training for module in backbone.modules()]
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    trains = [param.requires_grad for param in backbone.parameters()]
    state = torch.get_rng_state()
    infer_features(backbone, 32)
    assert torch.equal(state, torch.get_rng_state())
    assert modes == [module.training for module in backbone.modules()]
    assert trains == [param.requires_grad for param in backbone.parameters()]
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_sizes_that_backbones_are_made_for():
    assert native_size(build(TIMM_VIT)) == (56, 56)
    assert native_size(build(dict(TIMM_VIT, features_only=True, out_indices=(0,)))) == (56, 56)
    assert native_size(build(dict(type='BEiTViT', arch=VIT, img_size=(64, 96)))) == (64, 96)
    assert native_size(build(RESNET)) == (224, 224)
