# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""A branch's backbone, built again by the library that is to have its weights."""

from collections.abc import Callable
from typing import Any

from mmengine.registry import DefaultScope
from torch import nn

from mmmokd.registry import MODELS
from mmmokd.transfer.backbone_info import Source
from mmmokd.transfer.libraries.base import FILE, Target, not_taken
from mmmokd.transfer.libraries.detectron2 import detectron2_target
from mmmokd.transfer.libraries.timm import timm_target
from mmmokd.transfer.libraries.transformers import transformers_target
from mmmokd.transfer.same_features import pooled

# What the ResNets of mmpretrain, mmdet and mmseg all take, besides depth and widths.
RESNET_KEYS = (
    *('in_channels', 'num_stages', 'strides', 'dilations'),
    *('style', 'deep_stem', 'avg_down', 'norm_cfg', 'conv_cfg'),
)
INSTALL = {
    'mmdet': 'pip install -r requirements/det.txt, and mmcv with operators: tools/build_mmcv_ops.sh',
    'mmseg': 'pip install -r requirements/seg.txt',
    'timm': 'pip install timm',
    'transformers': 'pip install -r requirements/transformers.txt',
}


def build_target(library: str, source: Source) -> Target:
    """Build the model of a library for a branch's weights.

    Args:
        library (str): A key of ``TARGETS``.
        source (Source): The backbone to hand over.

    Returns:
        Target: The model, with random weights.

    Raises:
        ValueError: If the library is not installed, or has no such model.
    """
    try:
        return TARGETS[library](source)
    except ImportError as error:
        hint = INSTALL.get(library, f'pip install {library}')
        raise ValueError(f'{library} cannot be imported ({error}): {hint}') from error


def _build(cfg: dict[str, Any], scope: str) -> nn.Module:
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(cfg)


def _usage(cfg: dict[str, Any], prefix: str = '', imports: str = '') -> str:
    """The lines of a config that load the file."""
    shown = ', '.join(f'{key}={value!r}' for key, value in cfg.items())
    prefix = f', prefix={prefix!r}' if prefix else ''
    init_cfg = f"init_cfg=dict(type='Pretrained', checkpoint={FILE!r}{prefix})"
    return f'{imports}backbone=dict({shown},\n    {init_cfg})'


def _mmpretrain(source: Source) -> Target:
    cfg = dict(source.cfg)
    if source.kind == 'VisionTransformer':
        cfg = {key: value for key, value in cfg.items() if key != 'pos_embed_scale_offset'}
        cfg.update(type='VisionTransformer', out_type=cfg.get('out_type', 'cls_token'))
    usage = _usage(cfg, prefix='backbone.')
    return Target(_build(cfg, 'mmpretrain'), 'backbone.', usage)


def _resnet(source: Source, library: str) -> dict[str, Any]:
    cfg = {key: source.cfg[key] for key in RESNET_KEYS if key in source.cfg}
    widths = {key: source.cfg.get(key, 64) for key in ('stem_channels', 'base_channels')}
    return dict(type=f'{library}.ResNet', depth=source.cfg['depth'], **widths, **cfg)


def _mmdet(source: Source) -> Target:
    import mmdet.models  # noqa: F401

    imports = ''
    if source.kind == 'ResNet':
        cfg = _resnet(source, 'mmdet')
    else:  # mmdet has no plain ViT; any backbone of mmpretrain serves it
        cfg = _elsewhere(source)
        imports = "custom_imports = dict(imports=['mmmokd'])\n"
    return Target(_build(cfg, 'mmdet'), '', _usage(cfg, imports=imports))


def _elsewhere(source: Source) -> dict[str, Any]:
    """A backbone's config as it stands in a config of another scope than mmpretrain."""
    kind = source.cfg['type']
    cfg = dict(source.cfg, type=kind if '.' in kind else f'mmpretrain.{kind}')
    return dict(cfg, out_type='featmap') if source.kind == 'VisionTransformer' else cfg


def _mmseg(source: Source) -> Target:
    import mmseg.models  # noqa: F401

    imports = ''
    if source.kind == 'ResNet':
        cfg = _resnet(source, 'mmseg')
    elif source.vit and source.cfg.get('with_cls_token', True):
        cfg = dict(
            type='mmseg.VisionTransformer',
            **source.vit,
            norm_cfg=dict(type='LN', eps=1e-6),
            patch_bias=True,
            final_norm=True,
        )
    else:
        cfg = _elsewhere(source)
        imports = "custom_imports = dict(imports=['mmmokd'])\n"
    return Target(_build(cfg, 'mmseg'), '', _usage(cfg, imports=imports))


def _torchvision(source: Source) -> Target:
    import torchvision

    if source.kind == 'ResNet':
        name, options, head = f'resnet{source.cfg["depth"]}', '', 'fc'
        model = torchvision.models.get_model(name)
    elif source.vit and source.vit['embed_dims'] in VIT_SIZES:
        vit = source.vit
        size, layers, heads = VIT_SIZES[vit['embed_dims']]
        name, head = f'vit_{size}_{vit["patch_size"]}', 'heads'
        known = torchvision.models.list_models()
        if name not in known or (layers, heads, 4) != (
            vit['num_layers'], vit['num_heads'], vit['mlp_ratio'],
        ):  # fmt: skip
            raise not_taken('torchvision', source)
        options = f'image_size={vit["img_size"]}'
        model = torchvision.models.get_model(name, image_size=vit['img_size'])
    else:
        raise not_taken('torchvision', source)
    setattr(model, head, nn.Identity())
    usage = (
        f'model = torchvision.models.{name}({options})\nmodel.{head} = torch.nn.Identity()\n'
        f'model.load_state_dict(torch.load({FILE!r}, weights_only=True))'
    )
    return Target(model, '', usage, features=lambda model, x: pooled(model(x)))


# By width: the letter in torchvision's names, layers, heads.
VIT_SIZES = {768: ('b', 12, 12), 1024: ('l', 24, 16), 1280: ('h', 32, 16)}
TARGETS: dict[str, Callable[[Source], Target]] = {
    'mmpretrain': _mmpretrain,
    'mmdet': _mmdet,
    'mmseg': _mmseg,
    'timm': timm_target,
    'torchvision': _torchvision,
    'transformers': transformers_target,
    'detectron2': detectron2_target,
}
