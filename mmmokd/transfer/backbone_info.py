# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""What a branch's weights are of: told by its config or, of a standard model, by the weights."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from mmengine.registry import DefaultScope
from torch import Tensor

from mmmokd.registry import MODELS
from mmmokd.weights.mokd_checkpoint import describe_backbone
from mmmokd.weights.vit_names import rename_vit, vit_library

RESNET_DEPTHS = {
    ('basic', '2-2-2-2'): 18,
    ('basic', '3-4-6-3'): 34,
    ('bottleneck', '3-4-6-3'): 50,
    ('bottleneck', '3-4-23-3'): 101,
    ('bottleneck', '3-8-36-3'): 152,
}
# Of a backbone's config: where its weights came from, and how it was trained.
NOT_OF_THE_MODEL = (
    *('init_cfg', 'pretrained', 'checkpoint_path'),
    *('frozen_stages', 'drop_path_rate', 'norm_eval', 'with_cp'),
)


class Pixels(NamedTuple):
    """What was done to the pixels that a branch was trained on.

    Attributes:
        mean (list[float]): Of each channel, 0 to 255.
        std (list[float]): Of each channel.
        rgb (bool): Whether the channels are red, green, blue; else as the pipeline gives them.
    """

    mean: list[float]
    std: list[float]
    rgb: bool


class Source(NamedTuple):
    """The backbone to hand over.

    Attributes:
        kind (str): ``'ResNet'``, ``'VisionTransformer'``, or any other type's name.
        cfg (dict): Its config, as mmpretrain builds it.
        vit (dict): Of a ViT: ``img_size``, ``patch_size``, ``embed_dims``, ``num_layers``,
            ``num_heads`` and ``mlp_ratio``; else empty.
        pixels (Pixels, optional): What was done to the pixels. Defaults to None, not known.
    """

    kind: str
    cfg: dict[str, Any]
    vit: dict[str, Any]
    pixels: Pixels | None = None


def make_source(
    weights: Mapping[str, Tensor], cfg: dict[str, Any] | None, img_size: int | None = None
) -> Source:
    """Say what a branch's weights are of.

    Args:
        weights (Mapping[str, Tensor]): The backbone's weights.
        cfg (dict, optional): Its config; None to tell a standard ResNet or ViT (heads of 64
            channels) from its weights.
        img_size (int, optional): Side in pixels of the images that a ViT's position embedding, or a
            Swin Transformer, is wanted for. Defaults to None, that of the weights.

    Returns:
        Source: Its kind, its config and its sizes.

    Raises:
        ValueError: If there is no config and the weights are of no standard model, or an image
            size is given for another model than a ViT.
    """
    cfg = dict(cfg) if cfg is not None else _infer(weights)
    for key in NOT_OF_THE_MODEL:
        cfg.pop(key, None)
    kind = cfg['type'].rpartition('.')[2]
    library = vit_library(weights)
    if kind != 'VisionTransformer' or library is None:
        if img_size is not None and kind == 'SwinTransformer':
            cfg['img_size'] = img_size
        elif img_size is not None:
            raise ValueError(
                f'only a ViT has a position embedding to resize for images of {img_size} pixels, '
                f'but the branch is {describe_backbone(weights)}'
            )
        return Source(kind, cfg, {})
    ours = rename_vit(weights, library, 'mmpretrain')
    patch = ours['patch_embed.projection.weight']
    side = int((ours['pos_embed'].shape[1] - ('cls_token' in ours)) ** 0.5) * patch.shape[-1]
    with torch.device('meta'), DefaultScope.overwrite_default_scope('mmpretrain'):
        arch = MODELS.build(cfg).arch_settings
    vit = dict(
        img_size=img_size or side,
        patch_size=patch.shape[-1],
        embed_dims=arch['embed_dims'],
        num_layers=arch['num_layers'],
        num_heads=arch['num_heads'],
        mlp_ratio=arch['feedforward_channels'] / arch['embed_dims'],
    )
    if vit['mlp_ratio'].is_integer():
        vit['mlp_ratio'] = int(vit['mlp_ratio'])  # mmseg's takes no other
    return Source(kind, dict(cfg, img_size=vit['img_size']), vit)


def _infer(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    text = describe_backbone(weights)
    if vit_library(weights) is not None:
        ours = rename_vit(weights, vit_library(weights), 'mmpretrain')
        width, patch = len(ours['ln1.weight']), ours['patch_embed.projection.weight'].shape[-1]
        layers = sum(bool(re.fullmatch(r'layers\.\d+\.ln1\.bias', key)) for key in ours)
        if width % 64 == 0 and 'cls_token' in ours:
            tokens = ours['pos_embed'].shape[1] - 1
            return dict(
                type='mmmokd.VisionTransformer',
                img_size=int(tokens**0.5) * patch,
                patch_size=patch,
                arch=dict(
                    embed_dims=width,
                    num_layers=layers,
                    num_heads=width // 64,
                    feedforward_channels=len(ours['layers.0.ffn.layers.0.0.weight']),
                ),
            )
    elif found := re.fullmatch(r'a ResNet of ([\d-]+) (\w+) blocks, (\d+) wide', text):
        depth = RESNET_DEPTHS.get((found[2], found[1]))
        if depth is not None and 'conv1.weight' in weights:
            width = int(found[3])
            return dict(
                type='ResNet',
                depth=depth,
                stem_channels=len(weights['conv1.weight']),
                base_channels=width,
            )
    raise ValueError(
        f'the checkpoint keeps no config, and its weights are of no standard model ({text}): name '
        'the config that it was trained with by --config'
    )
