# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from backbone_families import FAMILIES, build
from mmpretrain.models.utils import MultiheadAttention
from torch import nn

from mmmokd.analysis import attention_distance, uniform_attention_distance, watch_attention
from mmmokd.utils.errors import ConfigError

GRID, SIZE = (2, 3), (32, 48)
CONV_STEM = dict(
    type='mmmokd.VisionTransformer', img_size=64, patch_size=16, with_cls_token=False,
    out_type='featmap', arch=dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48),
    patch_cfg=dict(conv_type='mmmokd.ConvStem'),
)  # fmt: skip


def distance_loop(weights, num_extra):
    """ViT's appendix D.7 for one head: pixels from query to key, weighted; over patches only."""
    (h, w), total = GRID, 0.0
    places = [
        ((i + 0.5) * SIZE[0] / h, (j + 0.5) * SIZE[1] / w) for i in range(h) for j in range(w)
    ]
    for query, (y, x) in enumerate(places):
        row = [weights[num_extra + query][num_extra + key] for key in range(h * w)]
        ways = [math.hypot(y - v, x - u) for v, u in places]
        total += sum(a * d for a, d in zip(row, ways, strict=True)) / sum(row)
    return total / (h * w)


@pytest.mark.parametrize('num_extra', [0, 1, 5])
def test_attention_distance_equals_loop(num_extra):
    generator = torch.Generator().manual_seed(0)
    n = num_extra + 6
    weights = torch.randn(2, 3, n, n, generator=generator, dtype=torch.float64).softmax(dim=-1)
    found = attention_distance(weights, GRID, SIZE, num_extra)
    assert found.shape == (2, 3) and found.dtype == torch.float64
    for image in range(2):
        for head in range(3):
            expected = distance_loop(weights[image, head].tolist(), num_extra)
            assert found[image, head].item() == pytest.approx(expected, rel=1e-12)


def test_of_no_and_of_uniform_attention():
    assert attention_distance(torch.eye(7).half(), GRID, SIZE, 1) == 0
    uniform = attention_distance(torch.full((6, 6), 1 / 6, dtype=torch.float64), GRID, SIZE)
    assert uniform.item() == pytest.approx(uniform_attention_distance(GRID, SIZE), rel=1e-12)
    with pytest.raises(
        ConfigError, match=r'2x3 map with 0 extra tokens .* \(..., 6, 6\), .* \(7, 7\)'
    ):
        attention_distance(torch.eye(7), GRID, SIZE)


def watched(module, *inputs):
    found = []
    with torch.no_grad(), watch_attention(found.append):
        output = module(*inputs)
    return found, output


def plain_weights(qkv, num_heads):
    """exp(q k / sqrt(d)) over its sum, by loops; queries, keys and values lie side by side."""
    width = qkv.shape[-1] // 3 // num_heads
    rows = []
    for tokens in qkv:
        for head in range(num_heads):
            q, k = (
                tokens[:, start : start + width].tolist()
                for start in (head * width, (num_heads + head) * width)
            )
            for query in q:
                row = [
                    math.exp(sum(a * b for a, b in zip(query, key, strict=True)) / width**0.5)
                    for key in k
                ]
                rows.append([each / sum(row) for each in row])
    return torch.tensor(rows, dtype=torch.float64).reshape(
        len(qkv), num_heads, qkv.shape[1], qkv.shape[1]
    )


@pytest.mark.parametrize(
    ('cfg', 'num_extra'),
    [
        (FAMILIES['vit_raw'].cfg, 1),
        (CONV_STEM, 0),
        (FAMILIES['timm_vit'].cfg, 1),
        (FAMILIES['timm_vit_registers_patch_14'].cfg, 5),
    ],
    ids=['mmpretrain', 'conv-stem', 'timm', 'timm-registers'],
)
def test_fused_weights_equal_loops_over_qkv(cfg, num_extra, float64):
    backbone = build(cfg)
    qkv = []
    layers = [module for name, module in backbone.named_modules() if name.endswith('.qkv')]
    for layer in layers:
        layer.register_forward_hook(lambda module, args, output: qkv.append(output))
    found, _ = watched(backbone, torch.randn(2, 3, 56, 56))
    assert len(found) == len(qkv) == 2
    for weights, each in zip(found, qkv, strict=True):
        assert weights.shape == (2, 2, 16 + num_extra, 16 + num_extra)
        torch.testing.assert_close(weights, plain_weights(each, 2), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('family', ['timm_dinov3_rope_registers', 'timm_beit', 'timm_vit'])
def test_fused_equals_written_out(family):
    """Rotary and relative positions are in the weights, whichever way timm computes them."""
    backbone = build(FAMILIES[family].cfg)
    for parameter in backbone.parameters():  # relative positions are 0 at first
        parameter.data += 0.1 * torch.randn_like(parameter)
    images = torch.randn(1, 3, 64, 64)
    fused, output = watched(backbone, images)
    torch.testing.assert_close(output, backbone(images))
    for module in backbone.modules():
        if hasattr(module, 'fused_attn'):
            module.fused_attn = False
    written, _ = watched(backbone, images)
    assert len(fused) == len(written) == 2
    torch.testing.assert_close(fused, written, rtol=1e-5, atol=1e-6)


def test_of_torch_and_of_half_precision():
    layer = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    tokens = torch.randn(3, 5, 8)
    (found,), _ = watched(lambda x: layer(x, x, x, need_weights=False), tokens)
    expected = layer(tokens, tokens, tokens, average_attn_weights=False)[1]
    torch.testing.assert_close(found, expected)
    layer = MultiheadAttention(8, 2).eval()
    (full,), _ = watched(layer, tokens)
    (half,), _ = watched(layer.bfloat16(), tokens.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0.05, atol=0.01)
    assert not watched(nn.Conv2d(3, 4, 3), torch.randn(1, 3, 8, 8))[0]
