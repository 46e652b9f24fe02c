# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import inspect
import logging
from typing import Any

import torch
from mmengine.logging import print_log
from torch import nn

from mmmokd.registry import MODELS

from ..utils import capturable
from .inference import infer_features

# What backbones of mmpretrain leave out by default, because a classifier has no use for it: a map,
# or tokens with their class token, instead of a pooled feature.
FOR_MAPS = dict(gap_before_final_norm=False, out_type='raw', reshape_last_feat=True)
READABLE_OUT_TYPES = ('raw', 'featmap')
# What lets models of timm take images of several sizes. It changes nothing for images of the size
# that a model is made for. No transformer of mmpretrain asks for it but those with windows.
FOR_SIZES = dict(dynamic_img_size=True, dynamic_img_pad=True)
# What makes timm's models give a map that otherwise insist on pooling: the last one of their stages.
MAP_ONLY = dict(features_only=True, out_indices=(-1,))
STRICT = 'strict_img_size'  # of timm's Swin, another name for the contrary of dynamic_img_size
PAD_SMALL_MAP = 'pad_small_map'
UNEXPECTED = 'unexpected keyword argument'


def build_backbone(cfg: dict) -> nn.Module:
    """Build a branch's backbone so that it gives maps, of images of several sizes.

    What a branch needs and the config leaves open is set and logged:

    - ``gap_before_final_norm=False``, ``out_type='raw'`` and ``reshape_last_feat=True`` of
      mmpretrain's backbones, whose defaults give pooled features only, or tokens out of their grid.
    - ``features_only=True`` and ``out_indices=(-1,)`` of timm's models that do not give a map without
      (distilled ones, PiT, CoaT, CrossViT, EfficientViT, InceptionNeXt).
    - ``dynamic_img_size=True`` and ``dynamic_img_pad=True`` of timm's transformers, without which
      they take images of one size alone.
    - Where a map is smaller than a window, the windows of mmpretrain's Swin and DaViT are padded, as
      with ``pad_small_map=True``. Other maps pass as without it, so that the function of pretrained
      weights stays what it was.

    - The rotary embedding of mmpretrain's ViTEVA02 keeps its buffers at the size that they were made
      for; otherwise checkpoints would have those of the last image.

    What the config does say is kept.

    Args:
        cfg (dict): Config of any backbone of mmpretrain or timm.

    Returns:
        nn.Module: The backbone.
    """
    backbone, chosen = _build(cfg)
    _keep_rotary_buffers(backbone)
    said = [f'{key}={value!r}' for key, value in chosen.items()]
    if PAD_SMALL_MAP not in cfg and _pad_small_maps(backbone):
        said.append(f'{PAD_SMALL_MAP}=True where a map is smaller than a window')
    if said:
        print_log(
            f'{describe_backbone(cfg)} is a branch, which needs maps of views of several sizes: it '
            f'is built with {", ".join(said)}',
            logger='current',
            level=logging.INFO,
        )
    return backbone


def complete_backbone(cfg: dict) -> dict:
    """A backbone's config with all that :func:`build_backbone` sets.

    Args:
        cfg (dict): Config of any backbone of mmpretrain or timm.

    Returns:
        dict: What builds the same backbone by itself, except that small maps are not padded.
    """
    return dict(cfg, **_build(cfg)[1])


def _build(cfg: dict) -> tuple[nn.Module, dict]:
    """A backbone that gives maps, and the arguments that were set for it."""
    cls = class_of(cfg)
    if getattr(cls, '__name__', '') == 'TIMMBackbone':
        return _build_timm(cfg)
    chosen = {
        key: value
        for key, value in FOR_MAPS.items()
        if key not in cfg and _default(cls, key) not in (None, value, *READABLE_OUT_TYPES)
    }
    return MODELS.build(dict(cfg, **chosen)), chosen


def describe_backbone(cfg: dict) -> str:
    """A backbone's name for a message: its type, and which model of timm or Hugging Face it wraps.

    Args:
        cfg (dict): Config of the backbone.

    Returns:
        str: For example ``'TIMMBackbone (vit_tiny_patch16_224)'``.
    """
    kind = cfg.get('type')
    name = str(kind if isinstance(kind, str) else getattr(kind, '__name__', kind))
    wrapped = cfg.get('model_name') or cfg.get('name_or_path') or cfg.get('arch')
    return name.rpartition('.')[2] + (f' ({wrapped})' if isinstance(wrapped, str) else '')


def class_of(cfg: dict) -> Any:
    """Look up the class that a config names, in the scope in which it is built.

    Args:
        cfg (dict): Config with a ``type``.

    Returns:
        type, optional: The class; None if none of that name is registered.
    """
    if not isinstance(cfg.get('type'), str):
        return cfg.get('type')
    with MODELS.switch_scope_and_registry(cfg.get('_scope_')) as registry:
        return registry.get(cfg['type'])


def has_argument(cls: Any, key: str) -> bool:
    """Check if a class takes an argument, itself or by ``**kwargs`` of a class below it.

    Args:
        cls (type): A class.
        key (str): Name of the argument.

    Returns:
        bool: True if it does.
    """
    return _parameter(cls, key) is not None


def _parameter(cls: Any, key: str) -> inspect.Parameter | None:
    for base in inspect.getmro(cls) if inspect.isclass(cls) else ():
        if '__init__' not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters
        if key in parameters:
            return parameters[key]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return None
    return None


def _default(cls: Any, key: str) -> Any:
    """The default of a class's argument, None where it has none."""
    parameter = _parameter(cls, key)
    return None if parameter is None or parameter.default is parameter.empty else parameter.default


def _build_timm(cfg: dict) -> tuple[nn.Module, dict]:
    """Build a model of timm that gives a map, with those of ``FOR_SIZES`` that it takes."""
    may_change = 'features_only' not in cfg
    state = torch.get_rng_state()
    try:
        backbone, chosen = _build_timm_for_sizes(cfg)
        if not may_change or _gives_map(backbone):
            return backbone, chosen
    except AssertionError:  # mmpretrain asks for no pooling, which some models refuse
        if not may_change:
            raise
    torch.set_rng_state(state)
    backbone, chosen = _build_timm_for_sizes(dict(cfg, **MAP_ONLY))
    return backbone, {**MAP_ONLY, **chosen}


def _gives_map(backbone: nn.Module) -> bool:
    """Check if a model of timm gives a map; those with a head for distillation may pool theirs."""
    if not hasattr(backbone.timm_model, 'head_dist'):
        return True
    try:
        infer_features(backbone)
    except ValueError:
        return False
    return True


def _build_timm_for_sizes(cfg: dict) -> tuple[nn.Module, dict]:
    """Build a model of timm with those of ``FOR_SIZES`` that it takes.

    Which class a name stands for is timm's secret until it is built, so refused arguments are left
    out one after the other; they are refused before any weight is made.
    """
    chosen = {
        key: value
        for key, value in FOR_SIZES.items()
        if key not in cfg and not (key == 'dynamic_img_size' and STRICT in cfg)
    }
    state = torch.get_rng_state()
    while True:
        try:
            backbone = MODELS.build(dict(cfg, **chosen))
        except TypeError as error:
            refused = [key for key in chosen if f"'{key}'" in str(error)]
            if UNEXPECTED not in str(error) or not refused:
                raise
            for key in refused:
                del chosen[key]
            torch.set_rng_state(state)
        else:
            model = backbone.timm_model
            inner = getattr(model, 'model', model)  # timm's `features_only` wraps once more
            return backbone, {k: v for k, v in chosen.items() if has_argument(type(inner), k)}


def _pad_small_maps(backbone: nn.Module) -> bool:
    """Let windows pad maps that are smaller; whether the backbone has such windows."""
    windows = [m for m in backbone.modules() if type(m).__name__ == 'ShiftWindowMSA']
    for module in windows:
        module.register_forward_pre_hook(_pad_if_smaller)
    return bool(windows)


@capturable  # what it sets depends on the shapes alone
def _pad_if_smaller(window: nn.Module, args: tuple) -> None:
    window.pad_small_map = min(args[1]) < window.window_size


def _keep_rotary_buffers(backbone: nn.Module) -> None:
    """Let rotary embeddings that replace their buffers for each size of images have them back."""
    for module in backbone.modules():
        if type(module).__name__ == 'RotaryEmbeddingFast':
            module.register_forward_pre_hook(_remember_buffers)
            module.register_forward_hook(_restore_buffers, always_call=True)


@capturable
def _remember_buffers(rotary: nn.Module, args: tuple) -> None:
    rotary.made_for = rotary.patch_resolution, rotary.freqs_cos, rotary.freqs_sin


@capturable
def _restore_buffers(rotary: nn.Module, args: tuple, output: Any) -> None:
    rotary.patch_resolution, rotary.freqs_cos, rotary.freqs_sin = rotary.made_for
    del rotary.made_for
