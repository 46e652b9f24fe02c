# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Inference of channels and grid of a backbone, by one forward pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn

from mmmokd.utils.errors import ConfigError

from .adapters import AutoAdapter, BackboneAdapter, inner_model

DEFAULT_SIZE = 224  # pixels, of backbones that take images of any size
IMAGE_CHANNELS = 3


class ImageSizeError(ConfigError):
    """A backbone cannot take an image of some size."""


class BackboneSpec(NamedTuple):
    """Channels and grid of a backbone, as necks need them.

    Attributes:
        pooled_channels (int): C of the pooled feature, (B, C).
        token_channels (int): C of the tokens, (B, h * w, C).
        grid (tuple[int, int]): The last map's (h, w) for images of ``size``.
        size (tuple[int, int]): The (H, W) of the images, in pixels.
    """

    pooled_channels: int
    token_channels: int
    grid: tuple[int, int]
    size: tuple[int, int]


def infer_features(
    backbone: nn.Module,
    size: int | tuple[int, int] | None = None,
    adapter: BackboneAdapter | None = None,
    image_channels: int = IMAGE_CHANNELS,
) -> BackboneSpec:
    """Find a backbone's channels and grid by passing one image of zeros through it.

    The pass is in evaluation mode and without gradients: weights, buffers, modes and random numbers
    stay as they are.

    Args:
        backbone (nn.Module): Any backbone, best built by :func:`build_backbone`.
        size (int | tuple[int, int], optional): Side, or (H, W), of the image in pixels. Defaults to
            None, the size that the backbone was made for (:func:`native_size`).
        adapter (BackboneAdapter, optional): Reads the backbone's output. Defaults to None, an
            :class:`AutoAdapter`.
        image_channels (int): Channels of the images that the backbone takes. Defaults to 3.

    Returns:
        BackboneSpec: Channels of the pooled feature and of the tokens, grid, and the size used.

    Raises:
        ImageSizeError: If the backbone cannot take the image.
        ConfigError: If the adapter cannot read its output.

    Example:
        >>> infer_features(MODELS.build(dict(type='mmpretrain.ResNet', depth=18)), 96)
        BackboneSpec(pooled_channels=512, token_channels=512, grid=(3, 3), size=(96, 96))
    """
    if size is None:
        size = native_size(backbone)
    size = (size, size) if isinstance(size, int) else tuple(size)
    adapter = AutoAdapter() if adapter is None else adapter
    weight = next((p for p in backbone.parameters() if p.is_floating_point()), torch.empty(0))
    image = weight.new_zeros(1, image_channels, *size)
    with in_evaluation(backbone), in_evaluation(adapter):
        try:
            output = backbone(image)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # each library has its own for a size that it does not take
            text = ' '.join(str(error).split()).rstrip('.') or type(error).__name__
            known = _known_size(backbone)
            made = ''
            if known not in (None, size):
                made = f', made for images of {known[0]}x{known[1]} (img_size),'
            raise ImageSizeError(
                f'the backbone {type(inner_model(backbone)).__name__}{made} cannot take an image of '
                f'{image_channels}x{size[0]}x{size[1]}: {text}'
            ) from error
        features = adapter(output, backbone, size)
    return BackboneSpec(
        features.pooled.shape[-1], features.tokens.shape[-1], tuple(features.grid), size
    )


def native_size(backbone: nn.Module) -> tuple[int, int]:
    """Look up the size of images that a backbone was made for.

    Args:
        backbone (nn.Module): A backbone, wrapped or not.

    Returns:
        tuple[int, int]: (H, W) in pixels: ``img_size`` of the backbone or of its patch embedding, the
        size that timm says is fixed, or else 224x224.
    """
    return _known_size(backbone) or (DEFAULT_SIZE, DEFAULT_SIZE)


def _known_size(backbone: nn.Module) -> tuple[int, int] | None:
    inner = inner_model(backbone)
    inner = getattr(inner, 'model', inner)  # timm's `features_only` wraps once more
    for owner in (inner, getattr(inner, 'patch_embed', None)):
        size = getattr(owner, 'img_size', None)
        if isinstance(size, int):
            return size, size
        if isinstance(size, tuple | list) and len(size) == 2:
            return int(size[0]), int(size[1])
    pretrained_cfg = getattr(inner, 'pretrained_cfg', None) or {}
    if pretrained_cfg.get('fixed_input_size'):
        return tuple(pretrained_cfg['input_size'][-2:])
    return None


@contextmanager
def in_evaluation(network: nn.Module) -> Iterator[None]:
    """Set a network to evaluation mode, without gradients, for a while.

    Random numbers drawn meanwhile are not missed later, and every module has its mode back.

    Args:
        network (nn.Module): Any module.
    """
    modes = {module: module.training for module in network.modules()}
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        # By its own train() first: some backbones of mmpretrain keep more than a flag.
        network.train(was_training)
        for module, mode in modes.items():
            module.training = mode
