# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Description of a backbone, from its weights."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from mmmokd.utils.state_dict import name_some
from mmmokd.weights.vit_names import rename_vit, vit_library

RESNET_DEPTHS = {
    ('basic', (2, 2, 2, 2)): 18,
    ('basic', (3, 4, 6, 3)): 34,
    ('bottleneck', (3, 4, 6, 3)): 50,
    ('bottleneck', (3, 4, 23, 3)): 101,
    ('bottleneck', (3, 8, 36, 3)): 152,
}
HEAD_DIMS = 64  # channels of an attention head in every standard ViT
REGISTERS = ('reg_token', 'register_tokens', 'storage_tokens')  # of timm, DINOv2 and DINOv3


class Pixels(NamedTuple):
    """Normalization of the images that a backbone was trained on.

    Attributes:
        mean (list[float]): Mean of each channel, 0 to 255.
        std (list[float]): Standard deviation of each channel.
        rgb (bool): Whether the channels are red, green, blue; else as the pipeline gives them.
    """

    mean: list[float]
    std: list[float]
    rgb: bool


class BackboneInfo(NamedTuple):
    """Description of a backbone. Its text is for messages.

    Attributes:
        family (str): Name of its class in mmpretrain: ``'ResNet'``, ``'VisionTransformer'``, ....
        cfg (dict, optional): Its config, as mmpretrain builds it. Defaults to None, not known.
        blocks (tuple[int, ...]): Number of blocks in each stage; a ViT has one stage. Defaults to
            (), not known, as everything below for another family than the two above.
        block (str): Kind of a ResNet's blocks, ``'basic'`` or ``'bottleneck'``. Defaults to ''.
        width (int): Channels of a ResNet's first block, or of a ViT's tokens. Defaults to 0.
        patch (int, optional): Side in pixels of a ViT's patches. Defaults to None, not a plain ViT.
        heads (int): Attention heads of a ViT's block. Defaults to 0, not known.
        mlp_ratio (float): Hidden over outer width of a ViT's MLP. Defaults to 0.
        class_token (bool): Whether a ViT has one. Defaults to False.
        registers (int): Number of a ViT's register tokens. Defaults to 0.
        img_size (int | tuple[int, int], optional): Side, or height and width, in pixels of the images
            that a ViT's position embedding is for. Defaults to None, not told by the weights.
        pixels (Pixels, optional): Normalization of the images. Defaults to None, not known.
    """

    family: str
    cfg: dict[str, Any] | None = None
    blocks: tuple[int, ...] = ()
    block: str = ''
    width: int = 0
    patch: int | None = None
    heads: int = 0
    mlp_ratio: float = 0
    class_token: bool = False
    registers: int = 0
    img_size: int | tuple[int, int] | None = None
    pixels: Pixels | None = None

    @property
    def is_vit(self) -> bool:
        """bool: Whether it is a plain ViT."""
        return self.patch is not None

    def __str__(self) -> str:
        if self.is_vit:
            registers = f' and {self.registers} registers' if self.registers else ''
            return (
                f'a ViT of {sum(self.blocks)} layers, {self.width} wide, with patches of '
                f'{self.patch}{registers}'
            )
        if self.blocks:
            stages = '-'.join(map(str, self.blocks))
            return f'a {self.family} of {stages} {self.block} blocks, {self.width} wide'
        return f'a {self.family}'


def inspect_weights(weights: Mapping[str, Tensor]) -> BackboneInfo | None:
    """Tell a ResNet or a plain ViT from its weights.

    Args:
        weights (Mapping[str, Tensor]): Weights by the names of mmpretrain; of a ViT also by those of
            another library in ``VIT_NAMES``.

    Returns:
        BackboneInfo | None: What the weights are of, with a config if that is a standard model (a
        ResNet-18 to 152, a ViT with a class token and attention heads of 64 channels); None for
        another family.
    """
    library = vit_library(weights)
    if library is not None:
        return _inspect_vit(rename_vit(weights, library, 'mmpretrain'))
    return _inspect_resnet(weights)


def describe_weights(weights: Mapping[str, Tensor]) -> str:
    """Say for a message what weights are of.

    Args:
        weights (Mapping[str, Tensor]): A backbone's weights by name.

    Returns:
        str: For example ``'a ResNet of 3-4-6-3 bottleneck blocks, 64 wide'``.
    """
    info = inspect_weights(weights)
    if info is not None:
        return str(info)
    return f'a model of {len(weights)} weights ({name_some(list(weights), 2)})'


def _inspect_resnet(weights: Mapping[str, Tensor]) -> BackboneInfo | None:
    first = weights.get('layer1.0.conv1.weight')
    if first is None:
        return None
    stages: dict[str, set[str]] = {}
    for key in weights:
        if match := re.match(r'(layer\d)\.(\d+)\.', key):
            stages.setdefault(match[1], set()).add(match[2])
    blocks = tuple(len(numbers) for _, numbers in sorted(stages.items()))
    block = 'bottleneck' if 'layer1.0.conv3.weight' in weights else 'basic'
    stem, depth, cfg = weights.get('conv1.weight'), RESNET_DEPTHS.get((block, blocks)), None
    if depth is not None and stem is not None:
        widths = dict(stem_channels=len(stem), base_channels=len(first))
        cfg = dict(type='ResNet', depth=depth, **widths, **_in_channels(stem))
    return BackboneInfo('ResNet', cfg, blocks, block, len(first))


def _inspect_vit(weights: Mapping[str, Tensor]) -> BackboneInfo:
    projection = weights['patch_embed.projection.weight']
    width, patch = len(projection), projection.shape[-1]
    layers = len({key.split('.')[1] for key in weights if key.startswith('layers.')})
    hidden = weights.get('layers.0.ffn.layers.0.0.weight', ())  # missing in gated blocks
    class_token = 'cls_token' in weights
    registers = next((weights[key].shape[1] for key in REGISTERS if key in weights), 0)
    img_size, cfg = _image_size(weights, class_token, registers, patch), None
    if class_token and img_size and not registers and len(hidden) and width % HEAD_DIMS == 0:
        cfg = dict(
            type='mmmokd.VisionTransformer',
            img_size=img_size,
            patch_size=patch,
            arch=dict(
                embed_dims=width,
                num_layers=layers,
                num_heads=width // HEAD_DIMS,
                feedforward_channels=len(hidden),
            ),
            **_in_channels(projection),
            **_vit_options(weights),
        )
    return BackboneInfo(
        'VisionTransformer',
        cfg,
        blocks=(layers,),
        width=width,
        patch=patch,
        heads=width // HEAD_DIMS if cfg else 0,
        mlp_ratio=len(hidden) / width,
        class_token=class_token,
        registers=registers,
        img_size=img_size,
    )


def _in_channels(first: Tensor) -> dict[str, int]:
    return {} if first.shape[1] == 3 else dict(in_channels=first.shape[1])


def _vit_options(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if 'layers.0.attn.qkv.bias' not in weights:
        options['qkv_bias'] = False
    if 'layers.0.attn.gamma1.weight' in weights:
        options['layer_scale_init_value'] = 1e-5  # any value makes layers for those that are loaded
    return options


def _image_size(
    weights: Mapping[str, Tensor], class_token: bool, registers: int, patch: int
) -> int | None:
    if 'pos_embed' not in weights:
        return None
    # Tokens that have no place in the map; timm's models with registers embed patches alone.
    extras = (class_token, class_token + registers, 0) if registers else (class_token,)
    for extra in extras:
        tokens = weights['pos_embed'].shape[1] - extra
        side = math.isqrt(max(tokens, 0))
        if side and side**2 == tokens:
            return side * patch
    return None
