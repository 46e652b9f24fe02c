# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Whether two models that hold the same weights compute the same."""

from typing import Any

import torch
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmmokd.registry import MODELS
from mmmokd.transfer.backbone_info import Source
from mmmokd.transfer.libraries.base import Target, model_name
from mmmokd.weights.backbones import load_backbone

# In double precision, relative to the largest feature: another epsilon of a norm shows at 1e-6, the
# order of the same sums at 1e-12.
TOLERANCE = 1e-9
IMAGE_SIZE = 96  # of a network of convolutions: its last map is 3 by 3
# Which of them output their last convolution only by default.
LAST_BY_DEFAULT = ('MobileNetV2', 'MobileNetV3', 'EfficientNet')


def pooled(output: Any) -> Tensor:
    """A model's pooled features.

    Args:
        output (Any): What the model gives: features or a map, or a list of which it is the last.

    Returns:
        Tensor: Shape (B, C).
    """
    last = output[-1] if isinstance(output, list | tuple) else output
    return last.mean((2, 3)) if last.ndim == 4 else last


def check_same_features(source: Source, weights: dict[str, Tensor], target: Target) -> None:
    """Make sure that a library's model computes what the branch does.

    Both take a random image in double precision. A model can take every weight and still be another
    one: by the padding of its convolutions, the epsilon of its norms, a stride.

    Args:
        source (Source): The branch's backbone.
        weights (dict[str, Tensor]): Its weights.
        target (Target): The library's model, with the weights; is in evaluation mode afterwards.

    Raises:
        ValueError: If the features differ, or one of the models cannot compute them.
    """
    if target.features is None:
        return
    cfg = dict(source.cfg)
    if source.vit:
        cfg['out_type'] = 'cls_token'
    if source.kind in LAST_BY_DEFAULT:
        cfg.pop('out_indices', None)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        own = MODELS.build(cfg)
    load_backbone(own, weights, "the branch's backbone")
    shape = (2, cfg.get('in_channels', 3), *_image_size(source))
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    name = target.name or model_name(target.model)
    try:
        expected = pooled(_run(own, own, images))
        found = _run(target.model, lambda x: target.features(target.model, x), images)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ValueError(
            f'{name} took the weights, but could not be compared with the branch: {error}'
        ) from error
    if found.shape != expected.shape:
        other = f'gives features of shape {tuple(found.shape)}, not {tuple(expected.shape)}'
    elif not (difference := _difference(found, expected)) <= TOLERANCE:  # true of NaN, too
        other = f'its features differ by up to {difference:.2g}'
    else:
        return
    raise ValueError(f'{name} takes the weights of {source.cfg}, but {other}')


def _difference(found: Tensor, expected: Tensor) -> float:
    """The largest, relative to the largest feature where that is above 1."""
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1))


def _image_size(source: Source) -> tuple[int, int]:
    size = source.vit.get('img_size')
    if size is None and source.kind == 'SwinTransformer':
        size = source.cfg.get('img_size', 224)
    size = size or IMAGE_SIZE
    return (size, size) if isinstance(size, int) else tuple(size)


@torch.no_grad()
def _run(model: nn.Module, forward: Any, images: Tensor) -> Tensor:
    """In double precision and evaluation mode; the weights are afterwards what they were."""
    dtype = next(model.parameters()).dtype
    model.double().eval()
    try:
        return forward(images)
    finally:
        model.to(dtype)
