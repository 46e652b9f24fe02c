# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""A branch's backbone as a file for detectron2."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmmokd.registry import MODELS
from mmmokd.transfer.backbone_info import Source
from mmmokd.transfer.libraries.base import FILE, Target, not_taken, write_whole
from mmmokd.transfer.same_features import pooled


def detectron2_target(source: Source) -> Target:
    """Build the ResNet that detectron2 has, for a branch.

    detectron2 is in no package index; its ResNet is mmpretrain's (torchvision's, with
    ``STRIDE_IN_1X1: False``) under other names.

    Args:
        source (Source): The backbone to hand over.

    Returns:
        Target: The model.

    Raises:
        ValueError: If it is no ResNet.
    """
    if source.kind != 'ResNet':
        raise not_taken('detectron2', source)
    keys = ('depth', 'stem_channels', 'base_channels', 'style')
    cfg = {key: source.cfg[key] for key in keys if key in source.cfg}
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(dict(type='ResNet', **cfg))
    return Target(
        model,
        '',
        _usage(source, model),
        features=lambda model, x: pooled(model(x)),
        write=_write,
        name='detectron2.ResNet',
    )


def _usage(source: Source, model: nn.Module) -> str:
    """The lines of detectron2's config that load the file."""
    weights = model.state_dict()
    caffe = source.cfg.get('style') == 'caffe'
    bottleneck = 'layer1.0.conv3.weight' in weights
    widths = dict(
        STEM_OUT_CHANNELS=len(weights['conv1.weight']),
        RES2_OUT_CHANNELS=len(weights['layer1.0.bn3.bias' if bottleneck else 'layer1.0.bn2.bias']),
    )
    defaults = dict(STEM_OUT_CHANNELS=64, RES2_OUT_CHANNELS=256)
    if bottleneck:
        widths['WIDTH_PER_GROUP'] = len(weights['layer1.0.conv1.weight'])
        defaults['WIDTH_PER_GROUP'] = 64
    lines = ['MODEL:', f'  WEIGHTS: {FILE}']
    if source.pixels:
        lines += [f'  PIXEL_MEAN: {source.pixels.mean}', f'  PIXEL_STD: {source.pixels.std}']
    lines += ['  RESNETS:', f'    DEPTH: {source.cfg["depth"]}', f'    STRIDE_IN_1X1: {caffe}']
    lines += [f'    {key}: {n}' for key, n in widths.items() if n != defaults[key]]
    if source.pixels:
        lines += ['INPUT:', f'  FORMAT: {"RGB" if source.pixels.rgb else "BGR"}']
    return '\n'.join(lines)


def resnet_to_detectron2(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give a ResNet's weights the names that detectron2 has for them.

    Args:
        weights (Mapping[str, Tensor]): Weights by the names of mmpretrain, which are torchvision's.

    Returns:
        dict[str, Tensor]: The same weights, for example ``res2.0.conv1.norm.weight``.
    """
    return {_name(key): value for key, value in weights.items()}


def _name(key: str) -> str:
    key = re.sub(r'\bbn(\d)\.', r'conv\1.norm.', key)
    key = key.replace('downsample.0.', 'shortcut.').replace('downsample.1.', 'shortcut.norm.')
    if match := re.match(r'layer(\d)\.', key):
        return f'res{int(match[1]) + 1}.{key[match.end() :]}'
    return f'stem.{key}'


class _Pickler(pickle.Pickler):
    """Writes arrays so that NumPy 1 reads them, too: NumPy 2's own way names modules it has not."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return np.ndarray, (value.shape, value.dtype.str, bytearray(value.tobytes()))
        return NotImplemented


def _write(model: nn.Module, path: Path) -> None:
    arrays = {key: v.numpy() for key, v in resnet_to_detectron2(model.state_dict()).items()}
    content = dict(model=arrays, __author__='mmmokd', matching_heuristics=True)

    def dump(file: BinaryIO) -> None:
        _Pickler(file, protocol=4).dump(content)

    write_whole(path, dump)
