# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Check that two models with the same weights compute the same features."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmmokd.transfer.libraries.base import Library, pooled
from mmmokd.transfer.libraries.mmlab import build_in_scope
from mmmokd.utils.errors import CheckpointError
from mmmokd.weights import BackboneInfo, load_backbone

# In double precision, relative to the largest feature: another epsilon of a norm shows at 1e-6, the
# order of the same sums at 1e-12.
TOLERANCE = 1e-9
IMAGE_SIZE = 96  # of a network of convolutions: its last map is 3 by 3
# Which of them output their last convolution only by default.
LAST_BY_DEFAULT = ('MobileNetV2', 'MobileNetV3', 'EfficientNet')


def check_same_features(library: Library, weights: Mapping[str, Tensor]) -> None:
    """Make sure that a library's model computes what the branch does.

    Both take a random image in double precision. A model can take every weight and still be another
    one: by the padding of its convolutions, the epsilon of its norms, a stride.

    Args:
        library (Library): With the weights loaded; its model is in evaluation mode afterwards.
        weights (Mapping[str, Tensor]): The weights of the branch's backbone.

    Raises:
        CheckpointError: If the features differ, or one of the models cannot compute them.
    """
    info, model = library.info, library.model
    shape = (2, info.cfg.get('in_channels', 3), *_image_size(info))
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = _run(library, model, library.features, images)
    if found is None:
        return
    own = _build_own(info)
    load_backbone(own, weights, "the branch's backbone")
    expected = pooled(_run(library, own, own, images))
    if found.shape != expected.shape:
        other = f'gives features of shape {tuple(found.shape)}, not {tuple(expected.shape)}'
    elif not (difference := _difference(found, expected)) <= TOLERANCE:  # also true of NaN
        other = f'its features differ by up to {difference:.2g}'
    else:
        return
    raise CheckpointError(f'{library.model_name} takes the weights of {info.cfg}, but {other}')


def _build_own(info: BackboneInfo) -> nn.Module:
    """The branch's backbone, with pooled features last."""
    cfg = dict(info.cfg)
    if info.is_vit:
        cfg['out_type'] = 'cls_token'
    if info.family in LAST_BY_DEFAULT:
        cfg.pop('out_indices', None)
    return build_in_scope(cfg, 'mmpretrain')


def _image_size(info: BackboneInfo) -> tuple[int, int]:
    size = info.img_size
    if size is None and info.family == 'SwinTransformer':
        size = info.cfg.get('img_size', 224)
    size = size or IMAGE_SIZE
    return (size, size) if isinstance(size, int) else tuple(size)


def _difference(found: Tensor, expected: Tensor) -> float:
    """The largest, relative to the largest feature where that is above 1."""
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1))


@torch.no_grad()
def _run(library: Library, model: nn.Module, forward: Callable, images: Tensor) -> Any:
    """In double precision and evaluation mode; the weights are afterwards what they were."""
    dtype = next(model.parameters()).dtype
    model.double().eval()
    try:
        return forward(images)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise CheckpointError(
            f'{library.model_name} took the weights, but could not be compared with the branch: {error}'
        ) from error
    finally:
        model.to(dtype)
