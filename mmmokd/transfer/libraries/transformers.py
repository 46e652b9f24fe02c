# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""A branch's backbone as a folder of Hugging Face transformers."""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from mmmokd.transfer.backbone_info import Pixels, Source
from mmmokd.transfer.libraries.base import FILE, Target, not_taken, write_folder
from mmmokd.weights.vit_names import rename, rename_vit, resize_pos_embed, vit_library

# {s} is a stage's number, {n} a block's, {rest} the end of a name.
VIT_NAMES = {
    'cls_token': 'embeddings.cls_token',
    'pos_embed': 'embeddings.position_embeddings',
    'patch_embed.projection.{rest}': 'embeddings.patch_embeddings.projection.{rest}',
    'layers.{n}.ln1.{rest}': 'encoder.layer.{n}.layernorm_before.{rest}',
    'layers.{n}.attn.proj.{rest}': 'encoder.layer.{n}.attention.output.dense.{rest}',
    'layers.{n}.ln2.{rest}': 'encoder.layer.{n}.layernorm_after.{rest}',
    'layers.{n}.ffn.layers.0.0.{rest}': 'encoder.layer.{n}.intermediate.dense.{rest}',
    'layers.{n}.ffn.layers.1.{rest}': 'encoder.layer.{n}.output.dense.{rest}',
    'ln1.{rest}': 'layernorm.{rest}',
}
RESNET_NAMES = {
    'conv1.{rest}': 'embedder.embedder.convolution.{rest}',
    'bn1.{rest}': 'embedder.embedder.normalization.{rest}',
}
RESNET_PARTS = {'conv': 'convolution', 'bn': 'normalization'}
SHORTCUT = ('shortcut.convolution', 'shortcut.normalization')


def transformers_target(source: Source) -> Target:
    """Build transformers' model for a branch.

    Args:
        source (Source): The backbone to hand over.

    Returns:
        Target: The model.

    Raises:
        ImportError: If transformers is not installed.
        ValueError: If transformers has no such model.
    """
    if source.kind == 'ResNet':
        model, convert = _resnet(source), resnet_to_transformers
    elif source.vit and source.cfg.get('with_cls_token', True):
        tokens = (source.vit['img_size'] // source.vit['patch_size']) ** 2 + 1
        model, convert = _vit(source), partial(vit_to_transformers, num_tokens=tokens)
    else:
        raise not_taken('transformers', source)
    usage = f'model = transformers.AutoModel.from_pretrained({FILE!r})'
    size = source.vit.get('img_size', 224)
    if source.pixels:
        usage += f'\nprocessor = transformers.AutoImageProcessor.from_pretrained({FILE!r})'

    def write(model: nn.Module, path: Path) -> None:
        write_folder(path, lambda folder: _save(model, folder, size, source.pixels))

    return Target(model, '', usage, convert, _features, write)


def _features(model: nn.Module, images: Tensor) -> Tensor:
    return model(images).pooler_output.flatten(1)


def _save(model: nn.Module, folder: Path, size: int, pixels: Pixels | None) -> None:
    from transformers import BitImageProcessor

    model.save_pretrained(folder)
    if pixels is not None:
        # Resizes the shorter side and crops the center, as the evaluations of this package do.
        BitImageProcessor(
            size=dict(shortest_edge=round(size * 256 / 224)),
            crop_size=dict(height=size, width=size),
            image_mean=[value / 255 for value in pixels.mean],
            image_std=[value / 255 for value in pixels.std],
        ).save_pretrained(folder)


def _resnet(source: Source) -> nn.Module:
    from mmpretrain.models import ResNet
    from transformers import ResNetConfig, ResNetModel

    cfg = source.cfg
    bottleneck = cfg['depth'] >= 50
    width = cfg.get('base_channels', 64) * (4 if bottleneck else 1)
    stages = cfg.get('num_stages', 4)
    config = ResNetConfig(
        num_channels=cfg.get('in_channels', 3),
        embedding_size=cfg.get('stem_channels', 64),
        hidden_sizes=[width * 2**stage for stage in range(stages)],
        depths=list(ResNet.arch_settings[cfg['depth']][1][:stages]),
        layer_type='bottleneck' if bottleneck else 'basic',
        downsample_in_bottleneck=cfg.get('style') == 'caffe',
    )
    return ResNetModel(config)


def _vit(source: Source) -> nn.Module:
    from transformers import ViTConfig, ViTModel

    vit = source.vit
    config = ViTConfig(
        hidden_size=vit['embed_dims'],
        num_hidden_layers=vit['num_layers'],
        num_attention_heads=vit['num_heads'],
        intermediate_size=round(vit['embed_dims'] * vit['mlp_ratio']),
        layer_norm_eps=1e-6,
        image_size=vit['img_size'],
        patch_size=vit['patch_size'],
        num_channels=source.cfg.get('in_channels', 3),
        qkv_bias=source.cfg.get('qkv_bias', True),
        pooler_act='linear',
    )
    return ViTModel(config)


def vit_to_transformers(weights: Mapping[str, Tensor], num_tokens: int) -> dict[str, Tensor]:
    """Give a ViT's weights the names of transformers' ``ViTModel``.

    Its pooler, which ``AutoModel`` would draw at random, passes the class token on as it is.

    Args:
        weights (Mapping[str, Tensor]): Weights by the names of mmpretrain.
        num_tokens (int): Of the position embedding, which is resized to it.

    Returns:
        dict[str, Tensor]: The weights; those without a name there keep theirs.
    """
    library = vit_library(weights)
    found: dict[str, Tensor] = {}
    for key, value in rename_vit(weights, library or 'mmpretrain', 'mmpretrain').items():
        if match := re.fullmatch(r'layers\.(\d+)\.attn\.qkv\.(weight|bias)', key):
            for name, part in zip(('query', 'key', 'value'), value.chunk(3), strict=True):
                found[f'encoder.layer.{match[1]}.attention.attention.{name}.{match[2]}'] = part
        else:
            found[rename(key, VIT_NAMES)] = value
    place = VIT_NAMES['pos_embed']
    found[place] = resize_pos_embed(found[place], num_tokens, 'the branch')
    width = weights['cls_token'].shape[-1]
    found['pooler.dense.weight'] = torch.eye(width, dtype=weights['cls_token'].dtype)
    found['pooler.dense.bias'] = torch.zeros(width, dtype=weights['cls_token'].dtype)
    return found


def resnet_to_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give a ResNet's weights the names of transformers' ``ResNetModel``.

    Args:
        weights (Mapping[str, Tensor]): Weights by the names of mmpretrain, which are torchvision's.

    Returns:
        dict[str, Tensor]: The same weights; those without a name there keep theirs.
    """
    return {_resnet_name(key): value for key, value in weights.items()}


def _resnet_name(key: str) -> str:
    match = re.fullmatch(r'layer(\d)\.(\d+)\.(?:(conv|bn)(\d)|downsample\.(\d))\.(.+)', key)
    if match is None:
        return rename(key, RESNET_NAMES)
    stage, block, kind, number, part, rest = match.groups()
    name = SHORTCUT[int(part)] if part else f'layer.{int(number) - 1}.{RESNET_PARTS[kind]}'
    return f'encoder.stages.{int(stage) - 1}.layers.{block}.{name}.{rest}'
