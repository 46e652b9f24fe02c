# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Attention weights of any transformer, and how far they reach."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from mmmokd.utils.errors import ConfigError

SOFTMAX = (F.softmax, torch.softmax, Tensor.softmax)


def attention_distance(
    weights: Tensor,
    grid: tuple[int, int],
    image_size: tuple[int, int],
    num_extra_tokens: int = 0,
) -> Tensor:
    """Mean distance in the image between a patch and what it attends to.

    As in `An Image is Worth 16x16 Words <https://arxiv.org/abs/2010.11929>`_, appendix D.7: distances
    between the centers of patches, weighted by the attention weights, averaged over queries. Class
    and register tokens have no place in the image. As queries and as keys they are left out, and
    the weights of the patches are rescaled to sum 1; otherwise what goes to a class token would
    count as distance 0.

    Args:
        weights (Tensor): Attention weights of queries (second last axis) over keys (last axis), shape
            (..., E + N, E + N).
        grid (tuple[int, int]): The map's (h, w), N = h * w, row by row.
        image_size (tuple[int, int]): The (H, W) of the images, in pixels.
        num_extra_tokens (int): Number E of tokens in front of the map's. Defaults to 0.

    Returns:
        Tensor: In pixels, shape (...): for weights (B, heads, E + N, E + N) it is (B, heads). At
        least float32.

    Raises:
        ConfigError: If the weights are not those of N + E tokens.

    Example:
        >>> uniform = torch.full((4, 4), 1 / 4)
        >>> attention_distance(uniform, grid=(2, 2), image_size=(32, 32))  # 0, 16, 16 and 16 * 2**0.5
        tensor(13.6569)
    """
    num_tokens = num_extra_tokens + grid[0] * grid[1]
    if weights.shape[-2:] != (num_tokens, num_tokens):
        raise ConfigError(
            f'attention weights of a {grid[0]}x{grid[1]} map with {num_extra_tokens} extra tokens are '
            f'of shape (..., {num_tokens}, {num_tokens}), but got {tuple(weights.shape)}'
        )
    patches = _at_least_float32(weights)[..., num_extra_tokens:, num_extra_tokens:]
    patches = patches / patches.sum(dim=-1, keepdim=True)
    return (patches * _distances(grid, image_size).to(patches)).sum(dim=-1).mean(dim=-1)


def uniform_attention_distance(grid: tuple[int, int], image_size: tuple[int, int]) -> float:
    """:func:`attention_distance` of attention that is the same everywhere: a scale to read it by.

    Args:
        grid (tuple[int, int]): The map's (h, w).
        image_size (tuple[int, int]): The (H, W) of the images, in pixels.

    Returns:
        float: In pixels.
    """
    return _distances(grid, image_size).mean().item()


@contextmanager
def watch_attention(read: Callable[[Tensor], None]) -> Iterator[None]:
    """Get the attention weights of every layer that is run meanwhile, of any model.

    Fused attention (``F.scaled_dot_product_attention``) never has its weights in memory. They are its
    output for the identity in place of the values; so masks, relative and rotary positions, and
    norms of queries and keys are in them, whichever library the model is from. Read as well: the
    weights of ``torch.nn.MultiheadAttention``, and softmax over the last axis of any tensor of four
    dimensions, which is how attention is written out.

    Args:
        read (Callable): Called with the weights of each attention, in the order of the layers,
            without gradients and at least in float32, mostly of shape (B, heads, queries, keys). It
            should reduce them at once: all layers together take much memory.

    Example:
        >>> found = []
        >>> with watch_attention(lambda weights: found.append(weights.shape)):
        ...     backbone(images)
        >>> found[0]
        torch.Size([8, 6, 197, 197])
    """
    with _AttentionWatch(read):
        yield


class _AttentionWatch(TorchFunctionMode):
    def __init__(self, read: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.read = read

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        with torch.no_grad():
            if func is F.scaled_dot_product_attention:
                self.read(_fused_weights(*args, **kwargs))
            elif func is F.multi_head_attention_forward:
                asked = dict(kwargs, need_weights=True, average_attn_weights=False)
                self.read(_at_least_float32(func(*args, **asked)[1]))
            elif func in SOFTMAX and output.ndim == 4:
                if (args[1] if len(args) > 1 else kwargs.get('dim')) in (-1, 3):
                    self.read(_at_least_float32(output.detach()))
        return output


def _fused_weights(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **options,
) -> Tensor:
    """The weights of ``F.scaled_dot_product_attention``, whose arguments these are."""
    query, key = _at_least_float32(query), _at_least_float32(key)
    if attn_mask is not None and attn_mask.is_floating_point():
        attn_mask = attn_mask.to(query.dtype)
    num_keys = key.shape[-2]
    identity = torch.eye(num_keys, dtype=key.dtype, device=key.device)
    identity = identity.expand(*key.shape[:-2], num_keys, num_keys)
    # Not every fused kernel takes values as wide as there are keys.
    with torch.autocast(query.device.type, enabled=False), sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(
            query, key, identity, attn_mask, is_causal=is_causal, **options
        )


def _distances(grid: tuple[int, int], image_size: tuple[int, int]) -> Tensor:
    """Pixels from each patch's center to each other's, (N, N), float64."""
    rows, columns = (
        torch.arange(n, dtype=torch.float64) * (size / n)
        for n, size in zip(grid, image_size, strict=True)
    )
    places = torch.cartesian_prod(rows, columns).reshape(-1, 2)  # (N, 2), row by row
    return (places[:, None] - places).norm(dim=-1)


def _at_least_float32(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
