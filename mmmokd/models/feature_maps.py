# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Check of the maps that a backbone gives against the heads of a detector or segmentor."""

import copy
import math
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mmmokd.registry import MODELS
from mmmokd.utils.config_tree import type_name
from mmmokd.utils.errors import ConfigError

SCOPES = ('mmdet', 'mmseg')
SIZE = 512  # pixels: a multiple of every stride in use
PYRAMIDS = ('FPN', 'PAFPN')  # of mmseg: the necks to which each map is of another stride
CREATORS = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn)
HINT = (
    "a ViT's maps are all of one stride: give it neck=dict(type='mmmokd.SimpleFeaturePyramid', ...), "
    'as configs/mokd/benchmarks/detection/mask-rcnn_vit-small-p16_sfp_1x_coco.py does'
)
# How a backbone is told to give maps: a ViT by OUT_TYPE.
OUT_TYPE = "out_type='featmap'"
GIVE_MAPS = {
    'ConvNeXt': 'gap_before_final_norm=False',
    'TIMMBackbone': 'features_only=True and a model of timm that has maps',
}


class _WithoutMemory(TorchFunctionMode):
    """New tensors are of the meta device, but for such whose values are read, as ``linspace``."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in CREATORS and kwargs.get('device') is None:
            kwargs['device'] = 'meta'
        return func(*args, **kwargs)


def check_feature_maps(cfg: Config) -> None:
    """Refuse a detector or segmentor whose backbone gives other maps than it is made for.

    The backbone and the neck are built without memory for weights and take an image of 512 pixels:
    what comes out is compared with the strides of the heads. A model of which that cannot be told is
    let through.

    Args:
        cfg (Config): A full config; one of another ``default_scope`` than mmdet's and mmseg's is let
            through.

    Raises:
        ConfigError: If the backbone gives vectors instead of maps, the neck does not take its maps, or
            maps have other strides than the heads count on.
    """
    model, scope = cfg.get('model') or {}, cfg.get('default_scope')
    if scope not in SCOPES or not isinstance(model.get('backbone'), dict):
        return
    with DefaultScope.overwrite_default_scope(scope):
        outputs = _backbone_outputs(model['backbone'])
        if outputs is None:
            return
        maps = _as_maps(model, outputs, scope)
        if maps is not None and model.get('neck'):
            maps = _neck_outputs(model, maps, scope)
    if maps is None:
        return
    if scope == 'mmdet':
        _check_strides(model, maps)
    else:
        _check_heads(model, maps)


def _backbone_outputs(backbone: dict[str, Any]) -> Any:
    """Outputs of a backbone; None if they cannot be determined."""
    cfg = dict(copy.deepcopy(backbone), init_cfg=None)  # a class may change what it is given
    for key in ('pretrained', 'checkpoint_path'):  # nothing is to be downloaded
        cfg.pop(key, None)
    channels = cfg.get('in_channels', 3)
    if not isinstance(channels, int):
        return None
    try:
        with _WithoutMemory():
            module = MODELS.build(cfg).to('meta')
        module.eval()  # returns None for some
        with torch.no_grad(), torch.device('meta'):
            return module(torch.empty(1, channels, SIZE, SIZE))
    except (
        Exception
    ):  # an operation without an implementation for it, or whatever a class may raise
        return None


def _as_maps(model: dict[str, Any], outputs: Any, scope: str) -> list[Tensor] | None:
    """A backbone's maps; None where it gives anything else that heads may be made for."""
    outputs = list(outputs) if isinstance(outputs, list | tuple) else [outputs]
    if all(torch.is_tensor(output) and output.ndim == 4 for output in outputs):
        return outputs
    shapes = [tuple(output.shape) for output in outputs if torch.is_tensor(output)]
    flat = [shape for shape in shapes if len(shape) < 4]
    kind = model['backbone'].get('type')
    built = MODELS.get(kind) if isinstance(kind, str) else kind
    own = built is not None and built.__module__.startswith(f'{scope}.')
    if not flat or own:
        return None
    name = type_name(kind)
    raise ConfigError(
        f'model.backbone, {name}, gives {_count(len(outputs), "output")} of shape {flat[0]}, not maps, '
        f'which {scope} takes: set its {GIVE_MAPS.get(name, OUT_TYPE)}'
    )


def _neck_outputs(model: dict[str, Any], maps: list[Tensor], scope: str) -> list[Tensor] | None:
    """Outputs of a neck; None if they cannot be determined."""
    neck, same = model['neck'], len(maps) > 1 and len({_stride(one) for one in maps}) == 1
    name = type_name(neck['type']) if isinstance(neck, dict) else 'list of necks'
    try:
        with _WithoutMemory():
            module = MODELS.build(copy.deepcopy(neck))
    except Exception:  # building the model says it better
        return None
    try:
        outputs = _run(module, maps)
    except Exception as error:  # of maps that do not fit, or of an operation for GPUs alone
        takes = neck.get('in_channels') if isinstance(neck, dict) else None
        gives = [one.shape[1] for one in maps]
        others = takes is not None and (_plain(takes) not in (gives, gives[-1]) or same)
        if not others and not _asserted_by(module, error):
            return None
        raise ConfigError(
            f'model.neck, {name}'
            + (f', takes maps with {_plain(takes)} channels' if takes is not None else '')
            + (' and of several strides, but' if same else ', but')
            + f' model.backbone gives {_describe(maps)}: {_hint(model, maps)}'
        ) from error
    outputs = list(outputs) if isinstance(outputs, list | tuple) else [outputs]
    if not all(torch.is_tensor(output) and output.ndim == 4 for output in outputs):
        return None
    strides = [_stride(output) for output in outputs]
    if same and len(set(strides[:2])) < len(strides[:2]) and (scope == 'mmdet' or name in PYRAMIDS):
        raise ConfigError(
            f'model.neck, {name}, is made for maps of several strides, but model.backbone gives '
            f'{_describe(maps)}: {_hint(model, maps)}'
        )
    return outputs


def _asserted_by(module: nn.Module, error: Exception) -> bool:
    """Check if an assertion of the module itself, about its input, failed."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    own = frames[-1].f_locals.get('self') is module
    return own and isinstance(error, AssertionError)


def _run(module: nn.Module, maps: Sequence[Tensor]) -> Any:
    module.to('meta')
    module.eval()
    with torch.no_grad(), torch.device('meta'):
        inputs = tuple(torch.zeros(tuple(one.shape)) for one in maps)
        return module(inputs)


def _check_strides(model: dict[str, Any], maps: list[Tensor]) -> None:
    """Refuse maps of other strides than a detector's heads count on."""
    found = [_stride(one) for one in maps]
    for key, strides in _head_strides(model):
        if not all(math.log2(stride).is_integer() for stride in strides):
            continue  # SSD's and YOLACT's are those of images of a certain size
        if len(strides) > len(found) or strides != found[: len(strides)]:
            raise ConfigError(
                f'model.{key} counts on maps of the strides {strides}, but {_giver(model)} gives '
                f'{_describe(maps)}: {_hint(model, maps)}'
            )


def _head_strides(model: dict[str, Any]) -> Iterator[tuple[str, list[int]]]:
    """The strides that the config of a detector says for its heads, by their place."""
    for key in ('rpn_head', 'bbox_head'):
        head = model.get(key)
        if not isinstance(head, dict):
            continue
        for name in ('anchor_generator', 'prior_generator'):
            if isinstance(head.get(name), dict) and head[name].get('strides'):
                yield f'{key}.{name}', _square(head[name]['strides'])
        if isinstance(head.get('strides'), list | tuple):
            yield f'{key}.strides', _square(head['strides'])
    roi_head = model.get('roi_head')
    for name in ('bbox_roi_extractor', 'mask_roi_extractor'):
        extractor = roi_head.get(name) if isinstance(roi_head, dict) else None
        if isinstance(extractor, dict) and extractor.get('featmap_strides'):
            yield f'roi_head.{name}.featmap_strides', _square(extractor['featmap_strides'])


def _square(strides: Sequence[Any]) -> list[int]:
    return [stride[0] if isinstance(stride, list | tuple) else stride for stride in strides]


def _check_heads(model: dict[str, Any], maps: list[Tensor]) -> None:
    """Refuse maps that a segmentor's heads do not take."""
    heads = model.get('auxiliary_head') or []
    for head in [model.get('decode_head'), *(heads if isinstance(heads, list) else [heads])]:
        if not isinstance(head, dict) or 'in_channels' not in head:
            continue
        index, channels = head.get('in_index', -1), head['in_channels']
        if isinstance(index, int) and isinstance(channels, int):
            index, channels = [index], [channels]
        if not isinstance(index, list | tuple) or not isinstance(channels, list | tuple):
            continue
        places = [i if i >= 0 else i + len(maps) for i in index]
        fits = all(0 <= place < len(maps) for place in places)
        if not fits or [maps[place].shape[1] for place in places] != list(channels):
            raise ConfigError(
                f'{type_name(head.get("type"))} takes the maps {_plain(index)} with '
                f'{_plain(channels)} channels, but {_giver(model)} gives {_describe(maps)}: set '
                'out_indices of the backbone, or in_index and in_channels of the head'
            )


def _giver(model: dict[str, Any]) -> str:
    place = 'neck' if isinstance(model.get('neck'), dict) else 'backbone'
    return f'model.{place}, {type_name(model[place].get("type"))},'


def _hint(model: dict[str, Any], maps: Sequence[Tensor]) -> str:
    plain = type_name(model['backbone'].get('type')) == 'VisionTransformer'
    neck = model.get('neck')
    pyramid = isinstance(neck, dict) and type_name(neck.get('type')) == 'SimpleFeaturePyramid'
    one_stride = len(maps) > 1 and len({_stride(one) for one in maps}) == 1
    return HINT if (plain or one_stride) and not pyramid else 'change the one or the other'


def _stride(one: Tensor) -> int:
    return round(SIZE / one.shape[-1])


def _describe(maps: Sequence[Tensor]) -> str:
    strides, channels = [_stride(one) for one in maps], [one.shape[1] for one in maps]
    return f'{_count(len(maps), "map")} of stride {strides} with {channels} channels'


def _count(number: int, what: str) -> str:
    return f'{number} {what}' + 's' * (number != 1)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value
