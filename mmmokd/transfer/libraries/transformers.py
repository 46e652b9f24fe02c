# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mmmokd.transfer.libraries.base import LIBRARIES, Library, write_folder

if TYPE_CHECKING:
    from torch import Tensor, nn

# {rest} is the end of a name.
RESNET_NAMES = {
    'conv1.{rest}': 'embedder.embedder.convolution.{rest}',
    'bn1.{rest}': 'embedder.embedder.normalization.{rest}',
}
RESNET_PARTS = {'conv': 'convolution', 'bn': 'normalization'}
SHORTCUT = ('shortcut.convolution', 'shortcut.normalization')


@LIBRARIES.register_module('transformers')
class Transformers(Library):
    """Hugging Face transformers: a folder for ``AutoModel`` and ``AutoImageProcessor``."""

    takes = 'a ResNet, and a ViT with a class token'
    install_hint = 'pip install -r requirements/transformers.txt'
    is_folder = True
    vit_names = {
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

    def build(self) -> nn.Module:
        if self.info.family == 'ResNet':
            return self._resnet()
        if self.info.is_vit and self.info.class_token:
            return self._vit()
        raise self.refuse()

    def _resnet(self) -> nn.Module:
        from mmpretrain.models import ResNet
        from transformers import ResNetConfig, ResNetModel

        cfg = self.info.cfg
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

    def _vit(self) -> nn.Module:
        from transformers import ViTConfig, ViTModel

        info = self.info
        if not isinstance(info.img_size, int):
            raise self.refuse('its images are not square')
        config = ViTConfig(
            hidden_size=info.width,
            num_hidden_layers=sum(info.blocks),
            num_attention_heads=info.heads,
            intermediate_size=round(info.width * info.mlp_ratio),
            layer_norm_eps=1e-6,
            image_size=info.img_size,
            patch_size=info.patch,
            num_channels=info.cfg.get('in_channels', 3),
            qkv_bias=info.cfg.get('qkv_bias', True),
            pooler_act='linear',
        )
        return ViTModel(config)

    def convert(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.info.is_vit:
            return self._convert_vit(super().convert(weights))
        return {resnet_name(key): value for key, value in weights.items()}

    def _convert_vit(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Split what transformers keeps apart, resize the position embedding, and add the pooler.

        The pooler, which ``AutoModel`` would draw at random, passes the class token on as it is.
        """
        import torch

        from mmmokd.utils.pos_embed import resize_square_pos_embed

        found: dict[str, Tensor] = {}
        for key, value in weights.items():
            if match := re.fullmatch(r'layers\.(\d+)\.attn\.qkv\.(weight|bias)', key):
                for name, part in zip(('query', 'key', 'value'), value.chunk(3), strict=True):
                    found[f'encoder.layer.{match[1]}.attention.attention.{name}.{match[2]}'] = part
            else:
                found[key] = value
        place = self.vit_names['pos_embed']
        tokens = (self.info.img_size // self.info.patch) ** 2 + 1
        found[place] = resize_square_pos_embed(found[place], tokens, 'the branch')
        dtype = found[place].dtype
        found['pooler.dense.weight'] = torch.eye(self.info.width, dtype=dtype)
        found['pooler.dense.bias'] = torch.zeros(self.info.width, dtype=dtype)
        return found

    def features(self, images: Tensor) -> Tensor:
        return self.model(images).pooler_output.flatten(1)

    def usage(self, file: Path) -> str:
        usage = f'model = transformers.AutoModel.from_pretrained({str(file)!r})'
        if self.info.pixels:
            processor = f'transformers.AutoImageProcessor.from_pretrained({str(file)!r})'
            usage += f'\nprocessor = {processor}'
        return usage

    def write(self, path: Path, meta: dict[str, str], overwrite: bool) -> None:
        write_folder(path, self._save)

    def _save(self, folder: Path) -> None:
        from transformers import BitImageProcessor

        self.model.save_pretrained(folder)
        pixels, size = self.info.pixels, self.info.img_size or 224
        if pixels is not None:
            # Resizes the shorter side and crops the center, as the evaluations of this package do.
            BitImageProcessor(
                size=dict(shortest_edge=round(size * 256 / 224)),
                crop_size=dict(height=size, width=size),
                image_mean=[value / 255 for value in pixels.mean],
                image_std=[value / 255 for value in pixels.std],
            ).save_pretrained(folder)


def resnet_name(key: str) -> str:
    """transformers' name of a ResNet's weight.

    Args:
        key (str): Its name in mmpretrain, which is torchvision's.

    Returns:
        str: Its name in ``ResNetModel``; the same where it has none there.
    """
    from mmmokd.weights.vit_names import rename

    match = re.fullmatch(r'layer(\d)\.(\d+)\.(?:(conv|bn)(\d)|downsample\.(\d))\.(.+)', key)
    if match is None:
        return rename(key, RESNET_NAMES)
    stage, block, kind, number, part, rest = match.groups()
    name = SHORTCUT[int(part)] if part else f'layer.{int(number) - 1}.{RESNET_PARTS[kind]}'
    return f'encoder.stages.{int(stage) - 1}.layers.{block}.{name}.{rest}'
