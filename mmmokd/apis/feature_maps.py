# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Whether a detector or segmentor can work with the maps that its backbone gives."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mmmokd.registry import MODELS

from .config_tree import type_name

SCOPES = ('mmdet', 'mmseg')
SIZE = 512  # pixels: a multiple of every stride in use
PYRAMIDS = ('FPN', 'PAFPN')  # of mmseg: the necks to which each map is of another stride
CREATORS = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn)
HINT = (
    "a ViT's maps are all of one stride: give it neck=dict(type='mmmokd.SimpleFeaturePyramid', ...), "
    'as configs/mokd/benchmarks/detection/mask-rcnn_vit-small-p16_sfp_1x_coco.py does'
)
OUT_TYPE = "set model.backbone.out_type='featmap'"


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
        ValueError: If the backbone gives vectors instead of maps, the neck does not take its maps, or
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
            maps = _neck_outputs(model['neck'], maps, scope)
    if maps is None:
        return
    if scope == 'mmdet':
        _check_strides(model, maps)
    elif not model.get('neck'):
        _check_heads(model, maps)


def _backbone_outputs(backbone: dict[str, Any]) -> Any:
    """What a backbone gives; None where it cannot be found out."""
    cfg = dict(backbone, init_cfg=None)
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
    name = type_name(model['backbone'].get('type'))
    if any(torch.is_tensor(output) and output.ndim < 4 for output in outputs) and (
        scope == 'mmdet' or any(torch.is_tensor(o) and o.ndim == 2 for o in outputs)
    ):
        shapes = [tuple(output.shape) for output in outputs if torch.is_tensor(output)]
        raise ValueError(
            f'model.backbone, {name}, gives {_count(len(outputs), "output")} of shape {shapes[0]}, '
            f'not maps, which every head and neck of {scope} takes: {OUT_TYPE}'
        )
    return outputs if all(torch.is_tensor(o) and o.ndim == 4 for o in outputs) else None


def _neck_outputs(neck: Any, maps: list[Tensor], scope: str) -> list[Tensor] | None:
    """What a neck makes of maps; None where it cannot be found out."""
    name = type_name(neck['type']) if isinstance(neck, dict) else 'list of necks'
    try:
        module = MODELS.build(neck)
    except Exception:  # building the model says it better
        return None
    try:
        outputs = _run(module, maps, 'meta')
    except Exception:
        try:
            outputs = _run(module, maps, 'cpu')
        except Exception as error:
            takes = neck.get('in_channels') if isinstance(neck, dict) else None
            hint = HINT if len({_stride(m) for m in maps}) == 1 else 'change the one or the other'
            raise ValueError(
                f'model.neck, {name}'
                + (f' with in_channels={_plain(takes)}' if takes is not None else '')
                + f', does not take what model.backbone gives, {_describe(maps)}: {hint}'
            ) from error
    outputs = list(outputs) if isinstance(outputs, list | tuple) else [outputs]
    if not all(torch.is_tensor(output) and output.ndim == 4 for output in outputs):
        return None
    strides = [_stride(output) for output in outputs]
    if len(maps) > 1 and len(outputs) > 1 and len({_stride(m) for m in maps}) == 1:
        if strides[0] == strides[1] and (scope == 'mmdet' or name in PYRAMIDS):
            raise ValueError(
                f'model.neck, {name}, is made for maps of several strides, but model.backbone gives '
                f'{_describe(maps)}: {HINT}'
            )
    return outputs


def _run(module: nn.Module, maps: Sequence[Tensor], device: str) -> Any:
    module.to(device)
    module.eval()
    with torch.no_grad(), torch.device(device):
        inputs = tuple(torch.zeros(tuple(one.shape)) for one in maps)
        return module(inputs)


def _check_strides(model: dict[str, Any], maps: list[Tensor]) -> None:
    """Refuse maps of other strides than a detector's heads count on."""
    found = [_stride(one) for one in maps]
    for key, strides in _head_strides(model):
        if len(strides) > len(found) or strides != found[: len(strides)]:
            place = 'model.neck' if model.get('neck') else 'model.backbone'
            hint = HINT if len(set(found[:2])) == 1 else 'change the one or the other'
            raise ValueError(
                f'model.{key} counts on maps of the strides {strides}, but {place} gives '
                f'{_describe(maps)}: {hint}'
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
            raise ValueError(
                f'{type_name(head.get("type"))} takes the maps {_plain(index)} with '
                f'{_plain(channels)} channels, but model.backbone, '
                f'{type_name(model["backbone"].get("type"))}, gives {_describe(maps)}: set '
                'out_indices of the one, or in_index and in_channels of the other'
            )


def _stride(one: Tensor) -> int:
    return round(SIZE / one.shape[-1])


def _describe(maps: Sequence[Tensor]) -> str:
    strides, channels = [_stride(one) for one in maps], [one.shape[1] for one in maps]
    return f'{_count(len(maps), "map")} of stride {strides} with {channels} channels'


def _count(number: int, what: str) -> str:
    return f'{number} {what}' + 's' * (number != 1)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value
