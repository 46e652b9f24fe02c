# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The pass of :mod:`.prototype_cross_entropy` over prototypes on a GPU, by kernels of its own.

Logits are computed twice, for their log-sum-exps and for probabilities, and never leave the chip.
"""

import logging
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import NamedTuple

import torch
from mmengine.logging import print_log
from torch import Tensor
from torch.autograd.function import once_differentiable

# Since PyTorch 2.8. Before, results are rounded to half precision.
WIDENS = hasattr(torch.ops.aten.bmm, 'dtype')
# Working memory of a chunk, in bytes.
CHUNK_BYTES = 64 * 2**20
ALIGNMENT = 128  # prototypes, with which products are fast
# Products of few rows over many prototypes are sums of at most so many, each of so many prototypes at
# least: one product has too few tiles for a GPU.
MAX_PARTS, MIN_PART = 32, 1024
TILE = 128


@cache
def load_kernels(device: torch.device) -> ModuleType | None:
    """The kernels of a device, after first launches that compile some.

    Args:
        device (torch.device): Where the loss is computed.

    Returns:
        module, optional: :mod:`.kernels`; None on other devices than GPUs with tensor cores for
        bfloat16, and, with a warning, where Triton cannot be used: the loss is the same, but takes
        longer.
    """
    if device.type != 'cuda' or not WIDENS or torch.cuda.get_device_capability(device) < (8, 0):
        return None
    try:
        from . import kernels

        # The kernel that asks the most of a GPU, with as many rows as fill its tile.
        gain, rows = torch.ones(TILE, 1, device=device), torch.ones(TILE, TILE, device=device)
        weights = kernels.prototypes(gain, rows, torch.bfloat16)
        kernels.log_sum_exps(weights, weights)
        return kernels
    except Exception as error:  # no Triton, no C compiler, a GPU that it does not know, ...
        print_log(
            'The loss is computed without kernels of its own, which takes longer, for Triton cannot '
            f'be used: {type(error).__name__}: {error}',
            logger='current',
            level=logging.WARNING,
        )
        return None


def kernels_for(dtype: torch.dtype, rows: Tensor, params: Sequence[Tensor]) -> ModuleType | None:
    """The kernels, if they compute a pass.

    Args:
        dtype (torch.dtype): Of factors of matrix products.
        rows (Tensor): The student's.
        params (Sequence[Tensor]): Gains and directions of all layers.

    Returns:
        module, optional: :mod:`.kernels`, if factors are bfloat16 and parameters float32 on one GPU.
    """
    usable = dtype == torch.bfloat16 and all(
        each.dtype == torch.float32 and each.device == rows.device and each.is_contiguous()
        for each in params
    )
    return load_kernels(rows.device) if usable and rows.numel() else None


class _Teacher(NamedTuple):
    rows: Tensor  # over the temperature, (N, D_t)
    gain: Tensor
    direction: Tensor
    shift: Tensor | None  # the center over the temperature; the center itself may change


class FusedPass(torch.autograd.Function):
    """Log-sum-exp of each row's logits, and each target's expected prototype of the student."""

    @staticmethod
    def forward(ctx, settings: tuple, x: Tensor, gain: Tensor, direction: Tensor, *flat: Tensor):
        kernels, dtype, temperatures = settings
        teachers = [
            _teacher(dtype, each, *flat[4 * i : 4 * i + 4]) for i, each in enumerate(temperatures)
        ]
        counts = [len(each.rows) for each in teachers]
        weights = kernels.prototypes(gain, direction, dtype)
        log_sums = kernels.log_sum_exps(x.to(dtype).contiguous(), weights)
        theirs = _prototypes(kernels, teachers, gain, direction, weights)
        totals = [
            kernels.log_sum_exps(each.rows, own, each.shift)
            for each, own in zip(teachers, theirs, strict=True)
        ]
        # Where they are smaller than the parameters, the backward pass has them from here.
        keep = sum(counts) * dtype.itemsize <= x.shape[1] * direction.dtype.itemsize
        chunks = [slice(0, len(weights))] if keep else _chunks(sum(counts), len(weights))
        buffer = _buffer(chunks, sum(counts), weights)
        expected = None
        for chunk in chunks:
            probs = _part(buffer, chunk, sum(counts))
            _write_probabilities(kernels, probs, teachers, theirs, totals, chunk)
            found = _sum_over_prototypes(probs, weights[chunk])
            expected = found if expected is None else expected.add_(found)
        # Saved, for then they are freed as soon as the backward pass is through.
        ctx.save_for_backward(
            x, gain, direction, log_sums, weights, probs if keep else None, *totals,
            *(param for each in teachers for param in (each.gain, each.direction)),
        )  # fmt: skip
        ctx.settings, ctx.teachers, ctx.counts = settings, teachers, counts
        return log_sums, *expected.split(counts)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_log_sums: Tensor, *grad_expected: Tensor):
        x, gain, direction, log_sums, weights, kept, *totals = ctx.saved_tensors
        (kernels, dtype, _), teachers = ctx.settings, ctx.teachers
        to_x, to_gain, to_direction = ctx.needs_input_grad[1:4]
        to_prototypes = to_gain or to_direction
        rows, factor = x.to(dtype).contiguous(), grad_log_sums.contiguous()
        grad_x = None
        grad_gain = torch.empty_like(gain) if to_gain else None
        grad_direction = torch.empty_like(direction) if to_prototypes else None
        count, theirs = len(x), []
        if to_prototypes:
            count += sum(ctx.counts)
            factors = torch.cat([rows, *(grad.to(dtype) for grad in grad_expected)])
            if kept is None:
                theirs = _prototypes(kernels, teachers, gain, direction, weights)
        chunks = _chunks(count, len(weights))
        buffer = _buffer(chunks, count, weights)
        for chunk in chunks:
            own, probs = weights[chunk], _part(buffer, chunk, count)
            kernels.probabilities(probs[: len(x)], rows, own, log_sums, factor)
            if to_prototypes:
                if kept is None:
                    others = probs[len(x) :]
                    _write_probabilities(kernels, others, teachers, theirs, totals, chunk)
                else:
                    probs[len(x) :] = kept[:, chunk]
                grad = grad_direction[chunk]
                _product(probs.t(), factors, out=grad)
                along = grad_gain[chunk] if to_gain else None
                kernels.to_direction(grad, gain[chunk], direction[chunk], along)
            if to_x:
                found = _sum_over_prototypes(probs[: len(x)], own)
                grad_x = found if grad_x is None else grad_x.add_(found)
        if not to_direction:
            grad_direction = None
        return None, grad_x, grad_gain, grad_direction, *[None] * (4 * len(teachers))


def _teacher(
    dtype: torch.dtype,
    temperature: float,
    features: Tensor,
    gain: Tensor,
    direction: Tensor,
    center: Tensor | None,
) -> _Teacher:
    rows = (features if temperature == 1 else features / temperature).to(dtype).contiguous()
    shift = None if center is None else (center / temperature).float().contiguous()
    return _Teacher(rows, gain, direction, shift)


def _prototypes(
    kernels: ModuleType,
    teachers: Sequence[_Teacher],
    gain: Tensor,
    direction: Tensor,
    weights: Tensor,
) -> list[Tensor]:
    """Each teacher's prototypes, which all targets of one layer share; the student's are known."""
    known = {(gain.data_ptr(), direction.data_ptr()): weights}
    found = []
    for each in teachers:
        key = each.gain.data_ptr(), each.direction.data_ptr()
        if key not in known:
            known[key] = kernels.prototypes(each.gain, each.direction, weights.dtype)
        found.append(known[key])
    return found


def _write_probabilities(
    kernels: ModuleType,
    out: Tensor,
    teachers: Sequence[_Teacher],
    prototypes: Sequence[Tensor],
    totals: Sequence[Tensor],
    chunk: slice,
) -> None:
    """Write all teachers' probabilities of a chunk of prototypes, (N, C)."""
    start = 0
    for i, each in enumerate(teachers):
        part = out[start : start + len(each.rows)]
        shift = None if each.shift is None else each.shift[:, chunk]
        kernels.probabilities(part, each.rows, prototypes[i][chunk], totals[i], shift=shift)
        start += len(each.rows)


def _chunks(rows: int, number: int) -> list[slice]:
    """Prototypes, as many at a time as make good use of the device, in chunks of about one size."""
    most = max(CHUNK_BYTES // (2 * rows), ALIGNMENT)
    count = -(-number // most)
    size = -(-number // (count * ALIGNMENT)) * ALIGNMENT
    return [slice(start, min(start + size, number)) for start in range(0, number, size)]


def _buffer(chunks: Sequence[slice], rows: int, weights: Tensor) -> Tensor:
    """Room for values by rows and the prototypes of a chunk, of which the first is the largest."""
    return weights.new_empty(rows * chunks[0].stop)


def _part(buffer: Tensor, chunk: slice, rows: int) -> Tensor:
    """The room of a chunk, (N, C)."""
    size = chunk.stop - chunk.start
    return buffer[: rows * size].view(rows, size)


def _sum_over_prototypes(probs: Tensor, weights: Tensor) -> Tensor:
    """Probabilities (N, C) times prototypes (C, D), in float32."""
    number, width = len(probs), weights.shape[1]
    tiles = -(-number // TILE) * -(-width // TILE)
    parts = 1
    while (
        2 * parts * tiles <= 2 * TILE
        and parts < MAX_PARTS
        and len(weights) % (2 * parts) == 0
        and len(weights) // (2 * parts) >= MIN_PART
    ):
        parts *= 2
    if parts == 1:
        return _product(probs, weights)
    probs = probs.unflatten(1, (parts, -1)).transpose(0, 1)
    return _product(probs, weights.unflatten(0, (parts, -1))).sum(dim=0)


def _product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """Product of matrices, or of stacks of them, in float32."""
    if not a.is_cuda:  # Triton's interpreter
        return torch.matmul(a.float(), b.float(), out=out)
    multiply = torch.mm if a.dim() == 2 else torch.bmm
    if out is None:
        return multiply(a, b, out_dtype=torch.float32)
    return multiply(a, b, out_dtype=torch.float32, out=out)
