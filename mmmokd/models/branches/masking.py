# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Passes of a transformer over images of which patches are masked."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mmmokd.utils.errors import ConfigError

from .adapters import inner_model


@contextmanager
def masked_patches(backbone: nn.Module, mask: Tensor, token: Tensor) -> Iterator[None]:
    """Let a transformer see a mask token where patches are masked, for a while.

    The embedded patches are replaced before position embeddings are added, by a hook on the patch
    embedding: ``patch_embed`` in mmpretrain's transformers and timm's, of which the backbone itself
    knows nothing.

    Args:
        backbone (nn.Module): A ViT, wrapped or not, that embeds as many patches as its map has tokens.
        mask (Tensor): True for masked patches, shape (B, N).
        token (Tensor): Mask token, shape (C,).

    Raises:
        ConfigError: If the backbone has no patch embedding, or it embeds other patches.
    """

    def replace(embedding: nn.Module, args: tuple, output: Any) -> Any:
        patches = output[0] if isinstance(output, tuple) else output
        found = tuple(patches.shape)
        # (B, N, C), or (B, h, w, C) of timm's models for images of several sizes.
        if patches.dim() not in (3, 4) or patches.flatten(1, -2).shape != (
            *mask.shape,
            *token.shape,
        ):
            raise _not_a_vit(
                backbone, f'embeds patches as {found} where its map has {mask.shape[1]} tokens'
            )
        masked = torch.where(
            mask.view(*found[:-1], 1), token.to(patches.dtype), patches
        )  # the token has a gradient even where nothing is masked
        return (masked, *output[1:]) if isinstance(output, tuple) else masked

    handle = patch_embedding(backbone).register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


def patch_embedding(backbone: nn.Module) -> nn.Module:
    """Find a transformer's patch embedding.

    Args:
        backbone (nn.Module): A backbone, wrapped or not.

    Returns:
        nn.Module: Its ``patch_embed``.

    Raises:
        ConfigError: If it has none, as a CNN.
    """
    inner = inner_model(backbone)
    inner = getattr(inner, 'model', inner)  # timm's `features_only` wraps once more
    found = getattr(inner, 'patch_embed', None)
    if not isinstance(found, nn.Module):
        raise _not_a_vit(backbone, 'has no patch_embed')
    return found


def _not_a_vit(backbone: nn.Module, why: str) -> ConfigError:
    return ConfigError(
        'masked patches need a ViT, whose map has one token for each embedded patch, but the backbone '
        f'{type(inner_model(backbone)).__name__} {why}: leave the head that masks patches out of this '
        'branch'
    )
