# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mmmokd.utils.errors import CheckpointError


def resize_pos_embed_2d(
    pos_embed: Tensor,
    src_grid: tuple[int, int],
    dst_grid: tuple[int, int],
    scale_offset: float | None = None,
    num_extra_tokens: int = 0,
) -> Tensor:
    """Resize a learned position embedding bicubically, in its own precision.

    Args:
        pos_embed (Tensor): Shape (1, num_extra_tokens + h * w, D).
        src_grid (tuple[int, int]): The (h, w) that the embedding was made for.
        dst_grid (tuple[int, int]): The (h, w) that is wanted.
        scale_offset (float, optional): None samples for the exact size. A number n samples with
            the scale factors ``(dst + n) / src`` instead, without recomputing them, as DINO and
            the official MOKD do with 0.1; the values differ. Defaults to None.
        num_extra_tokens (int): Leading tokens that are not on the grid and pass unchanged.
            Defaults to 0.

    Returns:
        Tensor: Shape (1, num_extra_tokens + dst_h * dst_w, D). The input itself when the grid fits.

    Raises:
        CheckpointError: If the embedding does not have ``num_extra_tokens + h * w`` tokens.
    """
    expected = num_extra_tokens + src_grid[0] * src_grid[1]
    if pos_embed.shape[1] != expected:
        raise CheckpointError(
            f'a position embedding for a {src_grid[0]}x{src_grid[1]} grid and {num_extra_tokens} '
            f'extra tokens has {expected} tokens, but this one has {pos_embed.shape[1]}'
        )
    if tuple(src_grid) == tuple(dst_grid):
        return pos_embed
    extra, weight = pos_embed[:, :num_extra_tokens], pos_embed[:, num_extra_tokens:]
    weight = weight.reshape(1, *src_grid, -1).permute(0, 3, 1, 2)  # (1, D, h, w)
    if scale_offset is None:
        weight = F.interpolate(weight, size=dst_grid, mode='bicubic', align_corners=False)
    else:
        scale = tuple((d + scale_offset) / s for d, s in zip(dst_grid, src_grid, strict=True))
        weight = F.interpolate(
            weight,
            scale_factor=scale,
            mode='bicubic',
            align_corners=False,
            recompute_scale_factor=False,
        )
    if tuple(weight.shape[-2:]) != tuple(dst_grid):
        raise CheckpointError(
            f'resizing a position embedding from {src_grid} with scale_offset={scale_offset} gave '
            f'{tuple(weight.shape[-2:])}, not {tuple(dst_grid)}; use scale_offset=None'
        )
    return torch.cat((extra, weight.flatten(2).transpose(1, 2)), dim=1)


def resize_square_pos_embed(pos_embed: Tensor, num_tokens: int, source: str) -> Tensor:
    """Resize a square position embedding to another square, as mmpretrain and timm do on loading.

    Args:
        pos_embed (Tensor): Shape (1, E + N, D), E of 0 or 1 class tokens, N a square number.
        num_tokens (int): The E + M that are wanted, M a square number.
        source (str): What it is of, for the message.

    Returns:
        Tensor: Shape (1, E + M, D).

    Raises:
        CheckpointError: If one of them is not a square with as many class tokens as the other.
    """
    for extra in (1, 0):
        sizes = (pos_embed.shape[1] - extra, num_tokens - extra)
        old, new = (math.isqrt(max(size, 0)) for size in sizes)
        if (old**2, new**2) == sizes and old and new:
            return resize_pos_embed_2d(pos_embed, (old, old), (new, new), num_extra_tokens=extra)
    raise CheckpointError(
        f'the position embedding of {source} has {pos_embed.shape[1]} tokens, which cannot be '
        f'resized to {num_tokens}: both should be squares, with or without a class token'
    )
