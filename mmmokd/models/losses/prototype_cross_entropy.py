# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Cross-entropies over many prototypes, without their logits.

A target's probabilities add up to one, so the cross-entropy of a student's row x with a target q is

    CE(q, x) = log sum_k exp(x . w_k) - x . sum_k q_k w_k

of the student's prototypes w_k over its temperature: one log-sum-exp for each row, which all targets
of the row share, and one dot product with the *expected prototype* of each target. A sum over pairs
of rows and targets is then a matrix product of the few targets. Both are computed chunk by chunk of
prototypes, and so are their gradients: no array of rows x prototypes exists as a whole.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..utils.onednn import product
from ..utils.prototypes import gain_and_direction
from .fused_pass import FusedPass, kernels_for
from .soft_cross_entropy import at_least_float32

# Working memory of a chunk, in bytes: what a core's cache holds; on a GPU what fills it.
CPU_CHUNK_BYTES = 2 * 2**20
GPU_CHUNK_BYTES = 64 * 2**20
MIN_CHUNK = 256  # prototypes
# Since PyTorch 2.8. Before, results are rounded to half precision.
WIDENS = hasattr(torch.ops.aten.mm, 'dtype')
ALIGNMENT = 128  # prototypes, with which products are fast


class Target(NamedTuple):
    """Targets of one loss term, over prototypes of a teacher.

    They are softmax((features . prototypes - center) / temperature) of M views of B images.

    Attributes:
        features (Tensor): What the teacher's prototype layer would take, shape (M, B, D_t), without
            gradient.
        layer (nn.Linear): The teacher's prototype layer, with K prototypes of width D_t.
        temperature (float): T_t.
        pairs (Tensor): Weight of the cross-entropy of each student's view with each of the M targets
            of the same image, shape (V, M).
        center (Tensor, optional): Shape (1, K). Defaults to None, not centered.
    """

    features: Tensor
    layer: nn.Linear
    temperature: float
    pairs: Tensor
    center: Tensor | None = None


def prototype_cross_entropies(
    features: Tensor, layer: nn.Linear, temperature: float, targets: Sequence[Target]
) -> list[Tensor]:
    """Compute the cross-entropies of a student's output with the targets of all its loss terms.

    For each target the plain formula is::

        logits = layer(features) / temperature  # (V, B, K)
        probs = softmax((target.layer(target.features) - center) / target.temperature)  # (M, B, K)
        loss = -einsum('vm,mbk,vbk->', target.pairs, probs, log_softmax(logits))

    Factors of matrix products are in the dtype of autocast, their results and sums over prototypes in
    float32 at least; on the CPU, whose products round their results, all is. Gradients flow to
    ``features`` and to the parameters of ``layer``; they cannot be differentiated again.

    Args:
        features (Tensor): What the prototype layer would take, shape (V, B, D).
        layer (nn.Linear): The student's prototype layer, with K prototypes, of
            :func:`~mmmokd.models.utils.build_prototype_layer`.
        temperature (float): T_s.
        targets (Sequence[Target]): One for each term.

    Returns:
        list[Tensor]: A scalar for each target.

    Example:
        >>> layer = build_prototype_layer(8, 1000)
        >>> targets = [Target(torch.rand(2, 4, 8), layer, 0.04, (1 - torch.eye(10, 2)) / 72)]
        >>> (loss,) = prototype_cross_entropies(torch.rand(10, 4, 8), layer, 0.1, targets)
    """
    device = features.device.type
    dtype = torch.promote_types(features.dtype, torch.float32)
    if device != 'cpu' and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    with torch.autocast(device, enabled=False):
        # Rounded once, so that log-sum-exps and dot products are of the same rows.
        rows = (at_least_float32(features) / temperature).to(dtype)
        rows = at_least_float32(rows)
        flat = [
            each
            for target in targets
            for each in (
                at_least_float32(target.features).flatten(0, 1),
                *gain_and_direction(target.layer),
                target.center,
            )
        ]
        inputs = rows.flatten(0, 1), *gain_and_direction(layer)
        settings = (dtype, tuple(target.temperature for target in targets))
        log_sums, *expected = _prototype_pass(settings, *inputs, *flat)
        log_sums = log_sums.unflatten(0, features.shape[:2])  # (V, B)
        losses = []
        for target, prototypes in zip(targets, expected, strict=True):
            pairs = target.pairs.to(rows.dtype)
            # For each target the weighted sum of the rows that are to match it, (M, B * D).
            matched = pairs.t() @ rows.flatten(1)
            dots = (matched * prototypes.view_as(matched)).sum()
            losses.append((pairs.sum(dim=1) @ log_sums).sum() - dots)
    return losses


class _Softmax:
    """Softmax of rows' logits over all prototypes, in float32 at least, a chunk at a time.

    Within a chunk it is PyTorch's; the chunk's share of the whole follows from the log-sum-exps of
    all chunks. Prototypes are directions times a scale: of few rows the logits are scaled, and the
    parameters are read as they are; of many, a chunk of prototypes; in another dtype, all of them
    once, half as large as the parameters.
    """

    def __init__(
        self,
        dtype: torch.dtype,
        temperature: float,
        features: Tensor,
        gain: Tensor,
        direction: Tensor,
        center: Tensor | None = None,
    ) -> None:
        self.rows = (features if temperature == 1 else features / temperature).to(dtype)
        self.direction = direction
        self.norm = torch.linalg.vector_norm(direction, dim=1, keepdim=True)  # (K, 1)
        self.scale = gain / self.norm
        self.scales_logits = dtype == direction.dtype and features.shape[0] <= features.shape[1]
        self.prototypes: Tensor | None = None
        self.shift = None if center is None else center / temperature  # (1, K)
        self.kept: list[Tensor] = []
        self.log_sums: list[Tensor] = []

    def weights(self, chunk: slice) -> Tensor:
        """Prototypes, or directions where logits are scaled, (C, D)."""
        if self.prototypes is not None:
            return self.prototypes[chunk]
        direction = self.direction[chunk]
        return direction if self.scales_logits else direction * self.scale[chunk]

    def scaled(self, values: Tensor, chunk: slice) -> Tensor:
        """Values by prototype, (N, C), for a product with :meth:`weights`; changes them."""
        return values.mul_(self.scale[chunk].t()) if self.scales_logits else values

    def within(self, chunk: slice, weights: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
        """Softmax within the next chunk, (N, C), and the log-sum-exp of its logits, (N,)."""
        logits = self._logits(chunk, weights)
        probs = logits.softmax(dim=1)
        # Of the largest logit, whose probability is exact to the last digits.
        log_sum = logits.amax(dim=1) - probs.amax(dim=1).log_()
        self.log_sums.append(log_sum)
        if keep:
            self.kept.append(probs)
        return probs, log_sum

    def total(self) -> Tensor:
        """Log-sum-exp of each row's logits, when all chunks are through, (N,)."""
        log_sums = torch.stack(self.log_sums)
        total = log_sums.logsumexp(dim=0)
        self.shares = (log_sums - total).exp_()  # of each chunk in the whole
        return total

    def __call__(self, index: int, chunk: slice, factor: Tensor | None = None) -> Tensor:
        """Probabilities, times a factor for each row, (N, C)."""
        share = self.shares[index] if factor is None else self.shares[index] * factor
        if self.kept:
            return self.kept[index] * share.unsqueeze(1)
        logits = self._logits(chunk, self.weights(chunk))
        return logits.softmax(dim=1).mul_(share.unsqueeze(1))

    def _logits(self, chunk: slice, weights: Tensor) -> Tensor:
        logits = self.scaled(_product(self.rows, weights.t()), chunk)
        return logits if self.shift is None else logits.sub_(self.shift[:, chunk])


class _PrototypePass(torch.autograd.Function):
    """Log-sum-exp of each row's logits, and each target's expected prototype of the student."""

    @staticmethod
    def forward(ctx, settings: tuple, x: Tensor, gain: Tensor, direction: Tensor, *flat: Tensor):
        dtype, temperatures = settings
        student = _Softmax(dtype, 1.0, x, gain, direction)
        teachers = [
            _Softmax(dtype, each, *flat[4 * i : 4 * i + 4]) for i, each in enumerate(temperatures)
        ]
        passes = (student, *teachers)
        num_rows = [len(each.rows) for each in passes]
        keep = sum(num_rows) <= x.shape[1]  # all logits together are smaller than the prototypes
        chunks = list(_chunks(max(num_rows), direction))
        mean = _RunningMean()
        with _converted(*passes):
            for chunk in chunks:
                weights = student.weights(chunk)
                student.within(chunk, weights, keep)
                found = [each.within(chunk, each.weights(chunk), keep) for each in teachers]
                probs = student.scaled(torch.cat([each for each, _ in found]), chunk)
                log_sums = torch.cat([each for _, each in found])
                mean.add(_product(probs.to(weights.dtype), weights), log_sums)
        for teacher in teachers:
            teacher.total()
        # Parameters, which must not change before the backward pass; a center may.
        params = [each for i in range(len(teachers)) for each in flat[4 * i + 1 : 4 * i + 3]]
        ctx.save_for_backward(x, gain, direction, *params)
        ctx.student, ctx.teachers, ctx.chunks = student, teachers, chunks
        return student.total(), *mean.value.split(num_rows[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_log_sums: Tensor, *grad_expected: Tensor):
        x, gain, direction, *_ = ctx.saved_tensors
        student, teachers = ctx.student, ctx.teachers
        to_x, to_gain, to_direction = ctx.needs_input_grad[1:4]
        to_prototypes = to_gain or to_direction
        grad_x = torch.zeros_like(x) if to_x else None
        grad_gain = torch.empty_like(gain) if to_gain else None
        grad_direction = torch.empty_like(direction) if to_prototypes else None
        rows = torch.cat([student.rows, *(grad.to(student.rows.dtype) for grad in grad_expected)])
        with _converted(student, *(teachers if to_prototypes else ())):
            for i, chunk in enumerate(ctx.chunks):
                probs = student(i, chunk, grad_log_sums).to(rows.dtype)
                if to_prototypes:
                    targets = [teacher(i, chunk).to(rows.dtype) for teacher in teachers]
                    grad = grad_direction[chunk]
                    _write_product(grad, torch.cat([probs, *targets]).t(), rows)
                    along = _to_direction(grad, student, chunk)
                    if to_gain:
                        grad_gain[chunk] = along
                if to_x:
                    grad_x += _product(student.scaled(probs, chunk), student.weights(chunk))
        if not to_direction:
            grad_direction = None
        return None, grad_x, grad_gain, grad_direction, *[None] * (4 * len(teachers))


class _RunningMean:
    """Expected prototypes, (N, D): of what was seen so far and each chunk's together."""

    def __init__(self) -> None:
        self.value: Tensor | None = None

    def add(self, of_chunk: Tensor, log_sum: Tensor) -> None:
        """Take in the mean of a chunk, (N, D), by the log-sum-exp of its logits, (N,)."""
        if self.value is None:
            self.value, self.log_sum = of_chunk, log_sum
            return
        self.log_sum = torch.logaddexp(self.log_sum, log_sum)
        self.value.lerp_(of_chunk, (log_sum - self.log_sum).exp_().unsqueeze(1))


@contextmanager
def _converted(*passes: _Softmax) -> Iterator[None]:
    """Have the prototypes in the dtype of the rows, where that is not the parameters', for a while."""
    for each in passes:
        if each.rows.dtype != each.direction.dtype:
            each.prototypes = torch.empty_like(each.direction, dtype=each.rows.dtype)
            torch.mul(each.direction, each.scale, out=each.prototypes)
    try:
        yield
    finally:
        for each in passes:
            each.prototypes = None


# Loops over chunks and launches of kernels are not for a compiler, which breaks the graph here.
@torch.compiler.disable
def _prototype_pass(settings: tuple, *inputs: Tensor | None) -> tuple[Tensor, ...]:
    (dtype, _), params = settings, [*inputs[1:3], *inputs[4::4], *inputs[5::4]]
    kernels = kernels_for(dtype, inputs[0], params)
    if kernels is not None:
        return FusedPass.apply((kernels, *settings), *inputs)
    return _PrototypePass.apply(settings, *inputs)


def _chunks(rows: int, direction: Tensor) -> Iterator[slice]:
    """Prototypes, as many at a time as make good use of the device."""
    num, width = direction.shape
    budget = CPU_CHUNK_BYTES if direction.device.type == 'cpu' else GPU_CHUNK_BYTES
    size = max(budget // (direction.element_size() * (rows + width)), MIN_CHUNK)
    size = max(size // ALIGNMENT * ALIGNMENT, min(size, ALIGNMENT))
    for start in range(0, num, size):
        yield slice(start, min(start + size, num))


def _to_direction(grad: Tensor, student: _Softmax, chunk: slice) -> Tensor:
    """Turn the gradient of prototypes w = gain * v / |v|, (C, D), into that of v, in place.

    Returns the gradient of the gain, (C, 1).
    """
    direction, norm = student.direction[chunk], student.norm[chunk]
    along = (grad * direction).sum(dim=1, keepdim=True).div_(norm)
    grad.addcmul_(direction, along / norm, value=-1).mul_(student.scale[chunk])
    return along


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product in float32 at least, also of half-precision factors."""
    if WIDENS and a.is_cuda and a.dtype in (torch.float16, torch.bfloat16):
        return torch.mm(a, b, out_dtype=torch.float32)
    return at_least_float32(product(a, b))


def _write_product(out: Tensor, a: Tensor, b: Tensor) -> None:
    """Write a matrix product to ``out``, which may be of a wider dtype."""
    if out.dtype == b.dtype:
        torch.mm(a, b, out=out)
    else:
        out.copy_(_product(a, b))
