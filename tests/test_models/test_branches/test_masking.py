# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from mmengine.registry import DefaultScope
from mokd_testing import BACKBONES

from mmmokd.models.branches import BranchNetwork

TIMM = dict(
    type='TIMMBackbone', model_name='vit_tiny_patch16_224', img_size=32, patch_size=8, depth=1
)
FIXED = dict(TIMM, dynamic_img_size=False, dynamic_img_pad=False)  # embeds (B, N, C)
MMPRETRAIN = dict(
    type='BEiTViT', img_size=32, patch_size=8, out_type='raw',
    arch=dict(embed_dims=24, num_layers=1, num_heads=2, feedforward_channels=32),
)  # fmt: skip


def build(backbone):
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return BranchNetwork(backbone, global_size=32).eval()


@pytest.mark.parametrize(
    'backbone',
    [BACKBONES['vit'], MMPRETRAIN, TIMM, FIXED],
    ids=['ours', 'mmpretrain', 'timm', 'fixed'],
)
def test_a_token_stands_for_masked_patches(backbone):
    """Of a patch that a gray image would have, it is the pass over an image with gray patches."""
    network = build(backbone)
    network.check_masks_patches()
    images = torch.randn(2, 3, 32, 32)
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[0, [1, 6]] = mask[1, 15] = True
    gray = images.clone()
    for b, patch in mask.nonzero().tolist():
        y, x = divmod(patch, 4)
        gray[b, :, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8] = 0.0
    embedding = getattr(network.backbone, 'timm_model', network.backbone).patch_embed
    embedded = embedding(torch.zeros(1, 3, 32, 32))
    embedded = embedded[0] if isinstance(embedded, tuple) else embedded
    token = embedded.flatten(1, -2)[0, 0].detach().requires_grad_()
    found, expected = network.extract_masked(images, mask, token), network.extract(gray)
    for one, other in zip(found[:2], expected[:2], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    found.tokens.square().sum().backward()
    assert token.grad.abs().sum() > 0 and not embedding._forward_hooks
    nothing = network.extract_masked(images, torch.zeros_like(mask), token)
    torch.testing.assert_close(nothing.tokens, network.extract(images).tokens)
    assert nothing.tokens.requires_grad


SWIN = dict(type='SwinTransformer', arch='tiny', img_size=64)


@pytest.mark.parametrize(
    ('backbone', 'message'),
    [
        (BACKBONES['cnn'], 'need a ViT, .* but the backbone ResNet_CIFAR has no patch_embed'),
        (SWIN, r'SwinTransformer embeds patches as \(1, 64, 96\) where its map has 1 tokens'),
    ],
)
def test_other_backbones(backbone, message):
    network = build(backbone)
    with pytest.raises(ValueError, match=message):
        network.check_masks_patches()
    embedding = getattr(network.backbone, 'patch_embed', None)
    assert embedding is None or not embedding._forward_hooks
