# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Class tokens of the last blocks: against plain forward passes, and over every backbone family."""

import pytest
import torch
from backbone_families import FAMILIES, VIT, build

from mmmokd.evaluation.block_tokens import watch_block_tokens
from mmmokd.models.branches import adapt_features

DEEP = dict(VIT, num_layers=6)
# These end in a norm of a class token that went through all blocks.
WITH_CLASS_TOKEN = (
    *('vit_raw', 'vit_several_layers', 'vit_ours', 'deit_distilled', 'deit3', 'beit', 'eva02'),
    *('timm_vit', 'timm_vit_registers_patch_14', 'timm_dinov3_rope_registers', 'timm_eva02'),
)
# Of these one token or the other is missing, or is pooled elsewhere.
WITHOUT = (
    *('resnet', 'swin', 'vit_raw_no_class_token', 'vit_map', 'xcit_uncounted_class_token', 't2t'),
    *('timm_resnet_features', 'timm_swin', 'timm_vit_features', 'timm_siglip', 'timm_cait'),
)


def features(backbone, images, last_blocks):
    """Pooled feature, and tokens of the last blocks, of one forward pass."""
    with torch.no_grad(), watch_block_tokens(backbone, last_blocks) as record:
        pooled = adapt_features(backbone(images), backbone, images.shape[-2:]).pooled
        return pooled, record.take(pooled)


def mmpretrain_blocks(vit, images):
    """The forward pass of a ViT for images of its own size, written out."""
    x, _ = vit.patch_embed(images)
    x = torch.cat((vit.cls_token.expand(len(x), -1, -1), x), dim=1) + vit.pos_embed
    found = []
    for layer in vit.layers:
        x = x + layer.attn(layer.ln1(x))
        x = layer.ffn(layer.ln2(x), identity=x)
        found.append(vit.ln1(x)[:, 0])
    return torch.stack(found, dim=1)


def timm_blocks(vit, images):
    x = vit.patch_embed(images).flatten(1, -2)
    x = torch.cat((vit.cls_token.expand(len(x), -1, -1), x), dim=1) + vit.pos_embed
    found = []
    for block in vit.blocks:
        x = x + block.attn(block.norm1(x))
        x = x + block.mlp(block.norm2(x))
        found.append(vit.norm(x)[:, 0])
    return torch.stack(found, dim=1)


@pytest.mark.parametrize('last_blocks', [1, 4, 6, 9])
@pytest.mark.parametrize('kind', ['mmpretrain', 'mmmokd', 'timm'])
def test_equals_plain_forward(kind, last_blocks, float64):
    cfg = dict(type='VisionTransformer', arch=DEEP, img_size=64, out_type='raw')
    if kind == 'mmmokd':
        cfg['type'] = 'mmmokd.VisionTransformer'
    if kind == 'timm':
        cfg = dict(type='TIMMBackbone', model_name='vit_tiny_patch16_224', img_size=64, depth=6)
    backbone = build(cfg)
    torch.nn.init.normal_(next(p for n, p in backbone.named_parameters() if 'cls_token' in n))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = (
            timm_blocks(backbone.timm_model, images)
            if kind == 'timm'
            else mmpretrain_blocks(backbone, images)
        )
    pooled, found = features(backbone, images, last_blocks)
    assert found.shape == (2, min(last_blocks, 6), expected.shape[2])
    assert torch.equal(found[:, -1], pooled)
    torch.testing.assert_close(found, expected[:, -last_blocks:], rtol=1e-6, atol=1e-6)
    assert (found[:, 0] - pooled).abs().max() > 0.1 or last_blocks == 1


@pytest.mark.parametrize('name', [*WITH_CLASS_TOKEN, *WITHOUT])
def test_the_pooled_feature_comes_last(name):
    family = FAMILIES[name]
    backbone = build(family.cfg)
    images = torch.randn(2, 3, *family.sizes[0])
    pooled, found = features(backbone, images, 2)
    assert torch.equal(found[:, -1], pooled)
    with torch.no_grad():
        unwatched = adapt_features(backbone(images), backbone, images.shape[-2:]).pooled
    assert torch.equal(pooled, unwatched)
    assert found.shape[1] == (2 if name in WITH_CLASS_TOKEN else 1)


def test_nothing_is_left_behind():
    backbone = build(dict(type='mmmokd.VisionTransformer', arch=DEEP, img_size=64))
    with pytest.raises(RuntimeError), watch_block_tokens(backbone, 4):
        raise RuntimeError
    assert not any(module._forward_hooks for module in backbone.modules())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad(), watch_block_tokens(backbone, 3) as record:
        for batch in (images, images[:1]):  # one pass does not see the tokens of another
            pooled = backbone(batch)[-1][:, 0]
            assert record.take(pooled).shape == (len(batch), 3, 24)


def test_features_pooled_another_way_come_alone():
    """Of a ViT whose user asks for the mean of its patches, the class tokens mean nothing."""
    backbone = build(dict(type='VisionTransformer', arch=DEEP, img_size=64, out_type='avg_featmap'))
    with torch.no_grad(), watch_block_tokens(backbone, 4) as record:
        (pooled,) = backbone(torch.randn(2, 3, 64, 64))
        assert torch.equal(record.take(pooled), pooled[:, None])


def test_features_that_are_not_finite_keep_their_shape():
    backbone = build(dict(type='mmmokd.VisionTransformer', arch=DEEP, img_size=64))
    _, found = features(backbone, torch.full((2, 3, 64, 64), torch.nan), 4)
    assert found.shape == (2, 4, 24) and found.isnan().all()


def test_half_precision():
    backbone = build(dict(type='mmmokd.VisionTransformer', arch=DEEP, img_size=64))
    images = torch.randn(2, 3, 64, 64)
    _, exact = features(backbone, images, 4)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        _, found = features(backbone, images, 4)
    assert found.shape == exact.shape
    torch.testing.assert_close(found.float(), exact, rtol=0.1, atol=0.1)
