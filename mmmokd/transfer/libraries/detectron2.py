# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmmokd.transfer.libraries.base import LIBRARIES, Library
from mmmokd.transfer.libraries.mmlab import build_in_scope
from mmmokd.utils.atomic import atomic_write

if TYPE_CHECKING:
    from torch import nn

# Of a ResNet's config: what detectron2's has as well.
KEYS = ('type', 'depth', 'stem_channels', 'base_channels', 'style')


@LIBRARIES.register_module('detectron2')
class Detectron2(Library):
    """detectron2, which is in no package index: its ResNet is mmpretrain's under other names.

    That is torchvision's, with ``STRIDE_IN_1X1: False``.
    """

    takes = 'a ResNet'
    suffix = '.pkl'
    model_name = 'detectron2.ResNet'

    def build(self) -> nn.Module:
        if self.info.family != 'ResNet':
            raise self.refuse()
        cfg = {key: self.info.cfg[key] for key in KEYS if key in self.info.cfg}
        return build_in_scope(cfg, 'mmpretrain')

    def usage(self, file: Path) -> str:
        """Lines of detectron2's config."""
        weights, cfg, pixels = self.model.state_dict(), self.info.cfg, self.info.pixels
        bottleneck = 'layer1.0.conv3.weight' in weights
        widths = dict(
            STEM_OUT_CHANNELS=len(weights['conv1.weight']),
            RES2_OUT_CHANNELS=len(weights[f'layer1.0.bn{3 if bottleneck else 2}.bias']),
        )
        defaults = dict(STEM_OUT_CHANNELS=64, RES2_OUT_CHANNELS=256)
        if bottleneck:
            widths['WIDTH_PER_GROUP'] = len(weights['layer1.0.conv1.weight'])
            defaults['WIDTH_PER_GROUP'] = 64
        lines = ['MODEL:', f'  WEIGHTS: {file}']
        if pixels:
            lines += [f'  PIXEL_MEAN: {pixels.mean}', f'  PIXEL_STD: {pixels.std}']
        stride_in_1x1 = cfg.get('style') == 'caffe'
        lines += ['  RESNETS:', f'    DEPTH: {cfg["depth"]}', f'    STRIDE_IN_1X1: {stride_in_1x1}']
        lines += [f'    {key}: {n}' for key, n in widths.items() if n != defaults[key]]
        if pixels:
            lines += ['INPUT:', f'  FORMAT: {"RGB" if pixels.rgb else "BGR"}']
        return '\n'.join(lines)

    def write(self, path: Path, meta: dict[str, str], overwrite: bool) -> None:
        weights = {resnet_name(key): v.numpy() for key, v in self.model.state_dict().items()}
        content = dict(model=weights, __author__='mmmokd', matching_heuristics=True)
        with atomic_write(path) as part, part.open('wb') as file:
            _Pickler(file, protocol=4).dump(content)


def resnet_name(key: str) -> str:
    """detectron2's name of a ResNet's weight.

    Args:
        key (str): Its name in mmpretrain, which is torchvision's.

    Returns:
        str: For example ``'res2.0.conv1.norm.weight'``.
    """
    key = re.sub(r'\bbn(\d)\.', r'conv\1.norm.', key)
    key = key.replace('downsample.0.', 'shortcut.').replace('downsample.1.', 'shortcut.norm.')
    if match := re.match(r'layer(\d)\.', key):
        return f'res{int(match[1]) + 1}.{key[match.end() :]}'
    return f'stem.{key}'


class _Pickler(pickle.Pickler):
    """Writes arrays so that NumPy 1 reads them as well: NumPy 2 names modules that NumPy 1 lacks."""

    def reducer_override(self, value: Any) -> Any:
        import numpy as np

        if isinstance(value, np.ndarray):
            return np.ndarray, (value.shape, value.dtype.str, bytearray(value.tobytes()))
        return NotImplemented
