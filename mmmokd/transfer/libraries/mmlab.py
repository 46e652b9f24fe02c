# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Base of the libraries of OpenMMLab, whose models are built from configs."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmmokd.registry import MODELS
from mmmokd.transfer.libraries.base import Library, find_library
from mmmokd.utils.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn

# What the ResNets of mmpretrain, mmdet and mmseg all take, besides depth and widths.
RESNET_KEYS = (
    *('in_channels', 'num_stages', 'strides', 'dilations'),
    *('style', 'deep_stem', 'avg_down', 'norm_cfg', 'conv_cfg'),
)
READS_SAFETENSORS = "custom_imports = dict(imports=['mmmokd'])  # reads safetensors"


class MMLibrary(Library):
    """A library whose models are built from configs; subclasses say from which.

    Attributes:
        models (str): The module that registers the library's models. Defaults to '', loaded already.
    """

    wraps_in_checkpoint = True
    models: str = ''

    def backbone_cfg(self) -> dict[str, Any]:
        """The config of the library's backbone for ``self.info``, without a scope if it is its own.

        Returns:
            dict[str, Any]: Config.
        """
        raise NotImplementedError

    def build(self) -> nn.Module:
        if self.models:
            import_module(self.models)
        return build_in_scope(self.backbone_cfg(), self.name)

    def features(self, images: Tensor) -> None:
        """None: a plain ResNet or ViT, or the branch's own class."""
        return None

    def usage(self, file: Path) -> str:
        cfg = self.backbone_cfg()
        scope, _, name = cfg['type'].rpartition('.')
        imports = ''
        if file.suffix == '.safetensors':
            imports = f'{READS_SAFETENSORS}\n'
        if scope not in ('', self.name):  # of mmpretrain, which importing mmmokd registers
            imports = "custom_imports = dict(imports=['mmmokd'])\n"
        shown = ', '.join(f'{key}={value!r}' for key, value in cfg.items())
        prefix = f', prefix={self.prefix!r}' if self.prefix else ''
        init_cfg = f"init_cfg=dict(type='Pretrained', checkpoint={str(file)!r}{prefix})"
        return f'{imports}backbone=dict({shown},\n    {init_cfg})'

    def own_resnet(self) -> dict[str, Any]:
        """The config of the library's own ResNet.

        Returns:
            dict[str, Any]: Config.
        """
        given = self.info.cfg
        cfg = {key: given[key] for key in RESNET_KEYS if key in given}
        widths = {key: given.get(key, 64) for key in ('stem_channels', 'base_channels')}
        return dict(type=f'{self.name}.ResNet', depth=given['depth'], **widths, **cfg)

    def mmpretrains(self) -> dict[str, Any]:
        """The branch's own config, as it stands in a config of another scope than mmpretrain.

        Returns:
            dict[str, Any]: Config.
        """
        kind = self.info.cfg['type']
        cfg = dict(self.info.cfg, type=kind if '.' in kind else f'mmpretrain.{kind}')
        return dict(cfg, out_type='featmap') if self.info.family == 'VisionTransformer' else cfg


class ConfiguredBackbone(Library):
    """The backbone of a downstream config, in place of the one that its library would choose.

    Args:
        name (str): The library's name.
        config (Config): A config of it.

    Raises:
        ConfigError: If it is a config of another library, or has no backbone.
    """

    wraps_in_checkpoint = True

    def __init__(self, name: str, config: Config) -> None:
        library = find_library(name)
        scope = config.get('default_scope') or 'mmpretrain'
        if not issubclass(library, MMLibrary) or scope != name:
            raise ConfigError(
                f'{config.filename or "the config"} is a config of {scope}, not of {name}'
            )
        self.config = config
        self.prefix = library.prefix
        super().__init__(name, None)

    def build(self) -> nn.Module:
        backbone = (self.config.get('model') or {}).get('backbone')
        if backbone is None:
            raise ConfigError(f'{self.config.filename or "the config"} has no model.backbone')
        return build_in_scope(dict(backbone, init_cfg=None), self.name)

    def features(self, images: Tensor) -> None:
        """None: what the config says is not compared with the branch."""
        return None

    def usage(self, file: Path) -> str:
        options = dict(type='Pretrained', checkpoint=file)
        if self.prefix:
            options['prefix'] = self.prefix
        imports = ''
        if file.suffix == '.safetensors':
            imports = f'{READS_SAFETENSORS}\n'
        texts = [f'model.backbone.init_cfg.{key}={value}' for key, value in options.items()]
        return f'{imports}{self.config.filename or "CONFIG"} --cfg-options {" ".join(texts)}'


def build_in_scope(cfg: dict[str, Any], scope: str) -> nn.Module:
    """Build a model from a config, whose types are of a library if they do not say otherwise.

    Args:
        cfg (dict[str, Any]): Config.
        scope (str): The library.

    Returns:
        nn.Module: The model.
    """
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(cfg)
