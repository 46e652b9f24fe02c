# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from functools import partial

import plain_mokd
import pytest
import torch
from timm.models.vision_transformer import Block
from torch import nn

from mmmokd.models.necks import TransformerSearchHead


def build(in_channels=10, projection=True, grid_size=4, seed=0, **kwargs):
    head = TransformerSearchHead(
        in_channels, 24, 9, grid_size=grid_size, projection=projection, **kwargs
    )
    torch.manual_seed(seed)
    for param in head.parameters():
        nn.init.normal_(param, std=0.3)
    return head


def weights_of(head):
    return dict(head.named_parameters())


@pytest.mark.parametrize('projection', [True, False])
@pytest.mark.parametrize('side', [4, 3, 2])
def test_formula(projection, side, float64):
    """From a map to logits: 1x1 convolution, position embedding, blocks, norm, mean, prototypes."""
    channels = 10 if projection else 24
    head = build(channels, projection)
    maps = torch.randn(3, channels, side, side)
    embedded = head.embed(maps.flatten(2).transpose(1, 2), (side, side))
    weights = weights_of(head)
    expected = plain_mokd.project_map(maps, weights)
    expected = expected + plain_mokd.resized_pos_embed(weights, 4, side)
    expected = expected.flatten(2).transpose(1, 2)
    torch.testing.assert_close(embedded, expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(
        head(embedded), plain_mokd.search_head(expected, weights), rtol=1e-11, atol=1e-12
    )
    query = torch.randn(3, 24)
    torch.testing.assert_close(
        head(embedded, query),
        plain_mokd.search_head(expected, weights, query),
        rtol=1e-11,
        atol=1e-12,
    )


def test_many_queries_are_one_after_the_other(float64):
    """Query q of image b stands at q * B + b, searches map b, and knows of no other query."""
    head = build()
    batch, num_queries = 3, 5
    tokens = head.embed(torch.randn(batch, 16, 10), (4, 4))
    queries = torch.randn(num_queries * batch, 24)
    found = head(tokens, queries)
    assert found.shape == (num_queries * batch, 9)
    for q in range(num_queries):
        for b in range(batch):
            row = q * batch + b
            single = head(tokens[b : b + 1], queries[row : row + 1])
            torch.testing.assert_close(found[row : row + 1], single, rtol=1e-12, atol=1e-13)
    assert (found[0] - found[batch]).abs().max() > 1e-6
    assert (found[0] - head(tokens)[0]).abs().max() > 1e-6


@pytest.mark.parametrize(('batch', 'num', 'num_queries'), [(2, 7, 3), (1, 1, 1), (3, 4, 8)])
def test_first_block_shares_what_is_equal(batch, num, num_queries, float64):
    block = build(24, projection=False).blocks[0]
    nn.init.normal_(block.attn.qkv.weight, std=0.5)  # attention far from uniform
    tokens = torch.randn(batch, num, 24, requires_grad=True)
    query = 3 * torch.randn(num_queries * batch, 24)
    found = block(tokens, query)
    expected = block(torch.cat((query.unsqueeze(1), tokens.repeat(num_queries, 1, 1)), dim=1))
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    grads = [torch.autograd.grad(each.square().sum(), tokens)[0] for each in (found, expected)]
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-10)


def test_query_of_a_map_is_its_pooled_projection(float64):
    head = build()
    maps = torch.randn(2, 10, 3, 5)
    kernel = weights_of(head)['projection.weight'][:, :, None, None]
    convolved = nn.functional.conv2d(maps, kernel, weights_of(head)['projection.bias'])
    torch.testing.assert_close(
        head.query(maps.mean(dim=(2, 3))), convolved.mean(dim=(2, 3)), rtol=1e-12, atol=1e-13
    )
    token = torch.randn(2, 24)
    assert head_without_projection().query(token) is token


def head_without_projection():
    return build(24, projection=False)


@pytest.mark.parametrize('num_heads', [1, 3, 6])
def test_blocks_are_those_of_a_vit(num_heads, float64):
    """Against timm's blocks with the same weights: pre-norm, exact GELU, eps 1e-6, ratio 4."""
    head = build(24, projection=False, num_layers=2, num_heads=num_heads)
    tokens = torch.randn(2, 7, 24)
    expected = tokens
    for block in head.blocks:
        other = Block(24, num_heads, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6))
        names = dict(ln1='norm1', ln2='norm2')
        state = {}
        for key, value in block.state_dict().items():
            key = key.replace('ffn.layers.0.0', 'mlp.fc1').replace('ffn.layers.1', 'mlp.fc2')
            first, rest = key.split('.', 1)
            state[f'{names.get(first, first)}.{rest}'] = value
        other.load_state_dict(state)
        expected = other(expected)
    expected = nn.functional.layer_norm(expected, (24,), head.norm.weight, head.norm.bias, 1e-6)
    torch.testing.assert_close(head.encode(tokens), expected.mean(dim=1), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize('offset', [0.1, None])
def test_position_embedding_of_other_grids(offset, float64):
    """Made for 4 x 6, read at 3 x 8: rows and columns are not mixed up."""
    head = build(24, projection=False, grid_size=(4, 6), pos_embed_scale_offset=offset)
    wanted = dict(size=(3, 8)) if offset is None else dict(scale_factor=(3.1 / 4, 8.1 / 6))
    embed = head.pos_embed.reshape(1, 4, 6, 24).permute(0, 3, 1, 2)
    expected = nn.functional.interpolate(embed, mode='bicubic', **wanted)[0]
    found = head.embed(torch.zeros(1, 24, 24), (3, 8))[0]
    for row in range(3):
        for column in range(8):
            torch.testing.assert_close(found[row * 8 + column], expected[:, row, column])
    tokens = torch.randn(2, 24, 24)
    assert torch.equal(head.embed(tokens, (4, 6)), tokens + head.pos_embed)


def test_initial_weights():
    torch.manual_seed(0)
    head = TransformerSearchHead(64, 192, 256, grid_size=14)
    projection = head.projection.weight.clone(), head.projection.bias.clone()
    head.init_weights()
    assert float(head.pos_embed.std()) == pytest.approx(0.02, rel=0.03)
    for block in head.blocks:
        for layer in block.modules():
            if isinstance(layer, nn.Linear):
                assert float(layer.weight.std()) == pytest.approx(0.02, rel=0.03)
                assert not layer.bias.any()
    # The 1x1 convolution keeps PyTorch's default, uniform within 1 / sqrt(64).
    assert torch.equal(head.projection.weight, projection[0])
    assert torch.equal(head.projection.bias, projection[1])
    conv = nn.Conv2d(64, 192, 1)
    assert float(projection[0].std()) == pytest.approx(float(conv.weight.std()), rel=0.02)
    assert torch.equal(head.last_layer.parametrizations.weight.original0, torch.ones(256, 1))
    assert head.last_layer.parametrizations.weight.original0.requires_grad


def test_queries_that_do_not_fit():
    head = build()
    tokens = head.embed(torch.randn(2, 16, 10), (4, 4))
    for query in (torch.randn(3, 24), torch.randn(4, 25)):
        with pytest.raises(ValueError, match=rf'queries of shape \({query.shape[0]}, .* 2 maps'):
            head(tokens, query)


def test_widths_that_do_not_fit():
    with pytest.raises(ValueError, match='embed_dims=32 .* not a multiple of num_heads=6'):
        TransformerSearchHead(32, 32, 9, grid_size=7)
    with pytest.raises(ValueError, match='in_channels == embed_dims, but got 32 and 24'):
        TransformerSearchHead(32, 24, 9, grid_size=7, projection=False)
    with pytest.raises(ValueError, match='4x4 grid and 0 extra tokens has 16 tokens'):
        head = build()
        head.pos_embed = nn.Parameter(torch.zeros(1, 9, 24))
        head.embed(torch.zeros(1, 9, 10), (3, 3))
