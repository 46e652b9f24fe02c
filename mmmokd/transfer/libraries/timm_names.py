# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Names in timm of the weights of mmpretrain's backbones, other than a plain ViT."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

# {s} is a stage's number, {n} a block's, {rest} the end of a name.
CONVNEXT_NAMES = {
    'downsample_layers.0.{n}.{rest}': 'stem.{n}.{rest}',
    'downsample_layers.{s}.{n}.{rest}': 'stages.{s}.downsample.{n}.{rest}',
    'stages.{s}.{n}.depthwise_conv.{rest}': 'stages.{s}.blocks.{n}.conv_dw.{rest}',
    'stages.{s}.{n}.pointwise_conv1.{rest}': 'stages.{s}.blocks.{n}.mlp.fc1.{rest}',
    'stages.{s}.{n}.pointwise_conv2.{rest}': 'stages.{s}.blocks.{n}.mlp.fc2.{rest}',
    'stages.{s}.{n}.grn.gamma': 'stages.{s}.blocks.{n}.mlp.grn.weight',
    'stages.{s}.{n}.grn.beta': 'stages.{s}.blocks.{n}.mlp.grn.bias',
    'stages.{s}.{n}.{rest}': 'stages.{s}.blocks.{n}.{rest}',
}
SWIN_NAMES = {
    'patch_embed.projection.{rest}': 'patch_embed.proj.{rest}',
    'stages.{s}.blocks.{n}.attn.w_msa.{rest}': 'layers.{s}.blocks.{n}.attn.{rest}',
    'stages.{s}.blocks.{n}.ffn.layers.0.0.{rest}': 'layers.{s}.blocks.{n}.mlp.fc1.{rest}',
    'stages.{s}.blocks.{n}.ffn.layers.1.{rest}': 'layers.{s}.blocks.{n}.mlp.fc2.{rest}',
    'stages.{s}.blocks.{n}.{rest}': 'layers.{s}.blocks.{n}.{rest}',
    'norm3.{rest}': 'norm.{rest}',
}


class MobileNames(NamedTuple):
    """Names in mmpretrain of the parts of a network of inverted residual blocks.

    Attributes:
        block (str): Pattern of what a block's names begin with.
        stem (str): The first convolution.
        last (str): The last convolution.
        timm_last (tuple[str, str], optional): The last convolution, and its norm, in timm; None if
            they are its last block. Defaults to ``('conv_head', 'bn2')``.
    """

    block: str
    stem: str
    last: str
    timm_last: tuple[str, str] | None = ('conv_head', 'bn2')


def convnext_to_timm(weights: Mapping[str, Tensor], norm: str) -> dict[str, Tensor]:
    """Give a ConvNeXt's weights timm's names.

    Args:
        weights (Mapping[str, Tensor]): Weights by mmpretrain's names.
        norm (str): timm's name of the last norm: ``'head.norm'`` where it comes after the pooling,
            else ``'norm_pre'``.

    Returns:
        dict[str, Tensor]: The same weights; those without a name in timm keep theirs.
    """
    from mmmokd.weights.vit_names import rename

    names = {**CONVNEXT_NAMES, 'norm3.{rest}': norm + '.{rest}'}
    return {rename(key, names): value for key, value in weights.items()}


def swin_to_timm(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give a Swin Transformer's weights timm's names, and its patches timm's order.

    timm halves the map at the beginning of a stage, mmpretrain at the end of the one before. There,
    each has the channels of four neighbors in an order of its own.

    Args:
        weights (Mapping[str, Tensor]): Weights by mmpretrain's names.

    Returns:
        dict[str, Tensor]: The weights; without the indices of the relative positions, which timm
        does not keep.
    """
    from mmmokd.weights.vit_names import rename

    found = {}
    for key, value in weights.items():
        if key.endswith('relative_position_index'):
            continue
        if match := re.fullmatch(r'stages\.(\d+)\.downsample\.(.+)', key):
            key = f'layers.{int(match[1]) + 1}.downsample.{match[2]}'
            value = value.unflatten(-1, (-1, 2, 2)).transpose(-1, -3).flatten(-3)
        found[rename(key, SWIN_NAMES)] = value
    return found


def mobile_to_timm(
    weights: Mapping[str, Tensor], target: Mapping[str, Tensor], names: MobileNames
) -> dict[str, Tensor]:
    """Give the weights of a MobileNet or an EfficientNet timm's names: block by block, in order.

    Args:
        weights (Mapping[str, Tensor]): Weights by mmpretrain's names.
        target (Mapping[str, Tensor]): Weights of timm's model by name.
        names (MobileNames): What mmpretrain calls its parts.

    Returns:
        dict[str, Tensor]: The same weights; those without a name in timm keep theirs.
    """
    sources = _blocks(weights, names.block)
    targets = _blocks(target, r'blocks\.\d+\.\d+')
    timm_last = names.timm_last or (f'{targets[-1]}.conv', f'{targets[-1]}.bn1')
    parts = _conv_module(names.stem, 'conv_stem', 'bn1')
    parts |= _conv_module(names.last, *timm_last)
    for block, timm_block in zip(sources, targets, strict=False):  # too few or many: keys are left
        for old, new in _block_names(block, weights).items():
            parts[f'{block}.{old}'] = f'{timm_block}.{new}'
    found = {}
    for key, value in weights.items():
        part = next((old for old in parts if key.startswith(f'{old}.')), None)
        found[key if part is None else parts[part] + key[len(part) :]] = value
    return found


def _blocks(weights: Mapping[str, Tensor], pattern: str) -> list[str]:
    """Prefixes of the blocks' names, in the order of the blocks."""
    found = {match[0]: None for key in weights if (match := re.match(pattern, key))}
    return sorted(found, key=lambda name: [int(number) for number in re.findall(r'\d+', name)])


def _conv_module(name: str, conv: str, norm: str) -> dict[str, str]:
    return {f'{name}.conv': conv, f'{name}.bn': norm}


def _block_names(block: str, weights: Mapping[str, Tensor]) -> dict[str, str]:
    """timm's names by mmpretrain's of the parts of a block: expanding, edge (EdgeTPU), or plain."""
    has = [part for part in BLOCK_PARTS if f'{block}.{part}.conv.weight' in weights]
    if 'conv1' in has:
        order = ('conv1', 'conv2')
        convs = ('conv_exp', 'conv_pwl')
    else:
        order = tuple(part for part in has if part not in ('conv1', 'conv2'))
        convs = ('conv_pw', 'conv_dw', 'conv_pwl') if len(order) == 3 else ('conv_dw', 'conv_pw')
    found = {'se.conv1.conv': 'se.conv_reduce', 'se.conv2.conv': 'se.conv_expand'}
    for number, (part, conv) in enumerate(zip(order, convs, strict=False), 1):
        found |= _conv_module(part, conv, f'bn{number}')
    return found


# In the order in which they run: of an EdgeTPU's block; of a block of MobileNetV3 and EfficientNet;
# of MobileNetV2.
BLOCK_PARTS = (
    *('conv1', 'conv2'),
    *('expand_conv', 'depthwise_conv', 'linear_conv'),
    *('conv.0', 'conv.1', 'conv.2'),
)
