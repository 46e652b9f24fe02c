# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Kernels for GPUs, by Triton: products with prototypes whose logits never leave the chip.

What they compute is the plain text of :mod:`.prototype_cross_entropy`, of factors in half precision.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Rows, prototypes and depth of the tile of a product, and how it is computed: for an H100 or H200.
TILE = dict(ROWS=128, COLUMNS=128, DEPTH=64, num_warps=8, num_stages=3)
# Values of a block of prototypes.
BLOCK = 4096


@triton.jit
def _prototypes(gain, direction, out, number, width, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Prototypes gain * v / |v| of directions v, in another dtype."""
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    real = row < number
    mask = real[:, None] & (column < width)[None, :]
    place = row.to(tl.int64)[:, None] * width + column[None, :]
    value = tl.load(direction + place, mask=mask, other=0.0)
    norm = tl.where(real, tl.sqrt(tl.sum(value * value, axis=1)), 1.0)
    scale = tl.load(gain + row, mask=real, other=0.0) / norm
    tl.store(out + place, (value * scale[:, None]).to(out.dtype.element_ty), mask=mask)


@triton.jit
def _to_direction(grad, gain, direction, grad_gain, number, width, HAS_GAIN: tl.constexpr,
                  ROWS: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    """Gradients of prototypes gain * v / |v| as those of v, in place, and of the gain."""
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    real = row < number
    mask = real[:, None] & (column < width)[None, :]
    place = row.to(tl.int64)[:, None] * width + column[None, :]
    value = tl.load(direction + place, mask=mask, other=0.0)
    slope = tl.load(grad + place, mask=mask, other=0.0)
    norm = tl.where(real, tl.sqrt(tl.sum(value * value, axis=1)), 1.0)
    along = tl.sum(slope * value, axis=1) / norm
    scale = tl.load(gain + row, mask=real, other=0.0) / norm
    slope = (slope - value * (along / norm)[:, None]) * scale[:, None]
    tl.store(grad + place, slope, mask=mask)
    if HAS_GAIN:
        tl.store(grad_gain + row, along, mask=real)


@triton.jit
def _logits(rows, weights, shift, row, column, num_rows, num_columns,
            HAS_SHIFT: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
            COLUMNS: tl.constexpr, DEPTH: tl.constexpr):  # fmt: skip
    """A tile of logits, less a shift. What is beyond the edge repeats what is not."""
    depth = tl.arange(0, DEPTH)
    near = rows + (row % num_rows).to(tl.int64)[:, None] * WIDTH + depth[None, :]
    far = weights + (column % num_columns).to(tl.int64)[None, :] * WIDTH + depth[:, None]
    logits = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, WIDTH, DEPTH):
        if WIDTH % DEPTH == 0:
            logits = tl.dot(tl.load(near + start), tl.load(far + start), logits)
        else:
            mask = start + depth < WIDTH
            a = tl.load(near + start, mask=mask[None, :], other=0.0)
            b = tl.load(far + start, mask=mask[:, None], other=0.0)
            logits = tl.dot(a, b, logits)
    if HAS_SHIFT:
        logits -= tl.load(shift + column % num_columns)[None, :]
    return logits


@triton.jit
def _log_sums(rows, weights, shift, out, num_rows, num_columns,
              HAS_SHIFT: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
              COLUMNS: tl.constexpr, DEPTH: tl.constexpr):  # fmt: skip
    """Log-sum-exps of each row's logits in one tile of prototypes; tiles of one are neighbors."""
    tiles = tl.cdiv(num_rows, ROWS)
    tile = tl.program_id(0) // tiles
    row = tl.program_id(0) % tiles * ROWS + tl.arange(0, ROWS)
    column = tile * COLUMNS + tl.arange(0, COLUMNS)
    logits = _logits(rows, weights, shift, row, column, num_rows, num_columns, HAS_SHIFT, WIDTH,
                     ROWS, COLUMNS, DEPTH)  # fmt: skip
    logits = tl.where((column < num_columns)[None, :], logits, float('-inf'))
    largest = tl.max(logits, axis=1)
    total = tl.sum(tl.exp(logits - largest[:, None]), axis=1)
    place = out + tile.to(tl.int64) * num_rows + row
    tl.store(place, largest + tl.log(total), mask=row < num_rows)


@triton.jit
def _join(parts, out, num_rows, num_parts, ROWS: tl.constexpr, PARTS: tl.constexpr):
    """Log-sum-exp of the log-sum-exps of all tiles."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    largest = tl.full((ROWS,), float('-inf'), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    for start in range(0, num_parts, PARTS):
        part = start + tl.arange(0, PARTS)
        mask = (part < num_parts)[:, None] & (row < num_rows)[None, :]
        place = part.to(tl.int64)[:, None] * num_rows + row[None, :]
        # Beyond the last row any finite number does.
        beyond = tl.where(row < num_rows, float('-inf'), 0.0)
        value = tl.where(mask, tl.load(parts + place, mask=mask, other=0.0), beyond[None, :])
        new = tl.maximum(largest, tl.max(value, axis=0))
        total = total * tl.exp(largest - new) + tl.sum(tl.exp(value - new[None, :]), axis=0)
        largest = new
    tl.store(out + row, largest + tl.log(total), mask=row < num_rows)


@triton.jit
def _probabilities(rows, weights, shift, total, factor, out, num_rows, num_columns, stride,
                   HAS_SHIFT: tl.constexpr, HAS_FACTOR: tl.constexpr, WIDTH: tl.constexpr,
                   ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr):  # fmt: skip
    """exp(logits - total) * factor of one tile."""
    tiles = tl.cdiv(num_rows, ROWS)
    row = tl.program_id(0) % tiles * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) // tiles * COLUMNS + tl.arange(0, COLUMNS)
    logits = _logits(rows, weights, shift, row, column, num_rows, num_columns, HAS_SHIFT, WIDTH,
                     ROWS, COLUMNS, DEPTH)  # fmt: skip
    values = tl.exp(logits - tl.load(total + row % num_rows)[:, None])
    if HAS_FACTOR:
        values *= tl.load(factor + row % num_rows)[:, None]
    place = out + row.to(tl.int64)[:, None] * stride + column[None, :]
    mask = (row < num_rows)[:, None] & (column < num_columns)[None, :]
    tl.store(place, values.to(out.dtype.element_ty), mask=mask)


def prototypes(gain: Tensor, direction: Tensor, dtype: torch.dtype) -> Tensor:
    """Compute the prototypes of a layer, in one pass.

    Args:
        gain (Tensor): Shape (K, 1), float32, contiguous as all that follow.
        direction (Tensor): Shape (K, D), float32.
        dtype (torch.dtype): Of the result.

    Returns:
        Tensor: gain * direction / norm of the direction, shape (K, D).
    """
    out = torch.empty_like(direction, dtype=dtype)
    grid, sizes = _blocks(*direction.shape)
    _prototypes[grid](gain, direction, out, *direction.shape, **sizes)
    return out


def to_direction(grad: Tensor, gain: Tensor, direction: Tensor, grad_gain: Tensor | None) -> None:
    """Turn the gradient of prototypes into that of their directions, in one pass.

    Args:
        grad (Tensor): Shape (K, D), float32; changed in place.
        gain (Tensor): Shape (K, 1), float32.
        direction (Tensor): Shape (K, D), float32.
        grad_gain (Tensor, optional): Where the gradient of the gain goes, shape (K, 1), float32.
    """
    grid, sizes = _blocks(*direction.shape)
    has_gain = grad_gain is not None
    _to_direction[grid](
        grad, gain, direction, grad_gain if has_gain else grad, *direction.shape,
        HAS_GAIN=has_gain, **sizes,
    )  # fmt: skip


def log_sum_exps(rows: Tensor, weights: Tensor, shift: Tensor | None = None) -> Tensor:
    """Compute the log-sum-exps of rows . prototypes - shift, without these logits.

    Args:
        rows (Tensor): Over the temperature, shape (N, D), in half precision.
        weights (Tensor): Prototypes, shape (K, D), in the same dtype.
        shift (Tensor, optional): Center over the temperature, shape (1, K), float32. Defaults to
            None, not centered.

    Returns:
        Tensor: Shape (N, ), float32.
    """
    num_rows, num_columns = len(rows), len(weights)
    tiles, parts = _tile(num_rows), triton.cdiv(num_columns, TILE['COLUMNS'])
    sums = rows.new_empty(parts, num_rows, dtype=torch.float32)
    _log_sums[(triton.cdiv(num_rows, tiles['ROWS']) * parts,)](
        rows, weights, sums if shift is None else shift, sums, num_rows, num_columns,
        HAS_SHIFT=shift is not None, WIDTH=rows.shape[1], **tiles,
    )  # fmt: skip
    out = sums.new_empty(num_rows)
    _join[(triton.cdiv(num_rows, 16),)](sums, out, num_rows, parts, ROWS=16, PARTS=128, num_warps=4)
    return out


def probabilities(
    out: Tensor,
    rows: Tensor,
    weights: Tensor,
    total: Tensor,
    factor: Tensor | None = None,
    shift: Tensor | None = None,
) -> None:
    """Compute probabilities of a chunk of prototypes, without logits.

    Args:
        out (Tensor): Where exp(logits - total) * factor goes, shape (N, C), rows contiguous.
        rows (Tensor): See :func:`log_sum_exps`, with all that follow.
        weights (Tensor): C of the prototypes.
        total (Tensor): Log-sum-exp over all prototypes, shape (N, ), float32.
        factor (Tensor, optional): Shape (N, ), float32. Defaults to None, which is 1.
        shift (Tensor, optional): Of these C prototypes. Defaults to None.
    """
    (num_rows, num_columns), tiles = out.shape, _tile(len(rows))
    parts = triton.cdiv(num_columns, tiles['COLUMNS'])
    _probabilities[(triton.cdiv(num_rows, tiles['ROWS']) * parts,)](
        rows, weights, total if shift is None else shift, total, total if factor is None else factor,
        out, num_rows, num_columns, out.stride(0),
        HAS_SHIFT=shift is not None, HAS_FACTOR=factor is not None, WIDTH=rows.shape[1], **tiles,
    )  # fmt: skip


def _tile(num_rows: int) -> dict[str, int]:
    """Launch arguments of a product: few rows have a lower tile."""
    return dict(TILE, ROWS=min(TILE['ROWS'], max(16, triton.next_power_of_2(num_rows))))


def _blocks(number: int, width: int) -> tuple[tuple[int], dict[str, int]]:
    """Grid and launch arguments of a pass over whole prototypes."""
    padded = triton.next_power_of_2(width)
    rows = max(1, BLOCK // padded)
    return (triton.cdiv(number, rows),), dict(ROWS=rows, WIDTH=padded, num_warps=8)
