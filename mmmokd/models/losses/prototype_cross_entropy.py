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
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..utils.prototypes import gain_and_direction
from .soft_cross_entropy import at_least_float32

# Working memory of a chunk, in bytes: what a core's cache holds; on a GPU what fills it.
CPU_CHUNK_BYTES = 2 * 2**20
GPU_CHUNK_BYTES = 96 * 2**20
MIN_CHUNK = 256  # prototypes


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
        settings = (dtype, tuple(target.temperature for target in targets))
        flat = [
            each
            for target in targets
            for each in (
                at_least_float32(target.features).flatten(0, 1),
                *gain_and_direction(target.layer),
                target.center,
            )
        ]
        log_sums, *expected = _prototype_pass(
            settings, rows.flatten(0, 1), *gain_and_direction(layer), *flat
        )
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
    parameters are read as they are; of many, or in another dtype, the chunk's prototypes.
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
        self.shift = None if center is None else center / temperature  # (1, K)
        self.kept: list[Tensor] | None = None
        self._shares: Tensor | None = None

    def weights(self, chunk: slice) -> Tensor:
        """Prototypes, or directions where logits are scaled, (C, D)."""
        direction = self.direction[chunk]
        if self.scales_logits:
            return direction
        return (direction * self.scale[chunk]).to(self.rows.dtype)

    def scaled(self, values: Tensor, chunk: slice) -> Tensor:
        """Values by prototype, (N, C), for a product with :meth:`weights`; changes them."""
        return values.mul_(self.scale[chunk].t()) if self.scales_logits else values

    def sum(self, chunks: Sequence[slice], keep: bool) -> Tensor:
        """Log-sum-exp of each row's logits, (N,)."""
        sums = []
        self.kept = [] if keep else None
        for chunk in chunks:
            logits = self._logits(chunk, self.weights(chunk))
            probs = logits.softmax(dim=1)
            # Of the largest logit, whose probability is exact to the last digits.
            sums.append(logits.amax(dim=1) - probs.amax(dim=1).log_())
            if keep:
                self.kept.append(probs)
        sums = torch.stack(sums)
        total = sums.logsumexp(dim=0)
        self._shares = (sums - total).exp_()
        return total

    def __call__(
        self, index: int, chunk: slice, weights: Tensor | None = None, factor: Tensor | None = None
    ) -> Tensor:
        """Probabilities, times a factor for each row, (N, C)."""
        share = self._shares[index] if factor is None else self._shares[index] * factor
        if self.kept is not None:
            return self.kept[index] * share.unsqueeze(1)
        weights = self.weights(chunk) if weights is None else weights
        return self._logits(chunk, weights).softmax(dim=1).mul_(share.unsqueeze(1))

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
        num_rows = [len(each.rows) for each in (student, *teachers)]
        keep = sum(num_rows) <= x.shape[1]  # all logits together are smaller than the prototypes
        chunks = list(_chunks(max(num_rows), direction))
        log_sums = student.sum(chunks, keep)
        for teacher in teachers:
            teacher.sum(chunks, keep)
        expected = [x.new_zeros(len(teacher.rows), x.shape[1]) for teacher in teachers]
        for i, chunk in enumerate(chunks):
            weights = student.weights(chunk)
            for teacher, prototypes in zip(teachers, expected, strict=True):
                _add_product(prototypes, student.scaled(teacher(i, chunk), chunk), weights)
        # Parameters, which must not change before the backward pass; a center may.
        params = [each for i in range(len(teachers)) for each in flat[4 * i + 1 : 4 * i + 3]]
        ctx.save_for_backward(x, gain, direction, *params)
        ctx.student, ctx.teachers, ctx.chunks = student, teachers, chunks
        return log_sums, *expected

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_log_sums: Tensor, *grad_expected: Tensor):
        x, gain, direction, *_ = ctx.saved_tensors
        student = ctx.student
        to_x, to_gain, to_direction = ctx.needs_input_grad[1:4]
        grad_x = torch.zeros_like(x) if to_x else None
        grad_gain = torch.empty_like(gain) if to_gain else None
        grad_direction = torch.empty_like(direction) if to_gain or to_direction else None
        grad_expected = [grad.to(student.rows.dtype) for grad in grad_expected]
        for i, chunk in enumerate(ctx.chunks):
            weights = student.weights(chunk)
            probs = student(i, chunk, weights, grad_log_sums)
            if grad_direction is not None:
                grad = grad_direction[chunk]
                _add_product(grad, probs.t(), student.rows, first=True)
                for teacher, grad_prototypes in zip(ctx.teachers, grad_expected, strict=True):
                    _add_product(grad, teacher(i, chunk).t(), grad_prototypes)
                along = _to_direction(grad, student, chunk)
                if to_gain:
                    grad_gain[chunk] = along
            if to_x:
                _add_product(grad_x, student.scaled(probs, chunk), weights)
        if not to_direction:
            grad_direction = None
        return None, grad_x, grad_gain, grad_direction, *[None] * (4 * len(ctx.teachers))


# Its loops over chunks are not for a compiler, which breaks the graph here.
_prototype_pass = torch.compiler.disable(_PrototypePass.apply)


def _chunks(rows: int, direction: Tensor) -> Iterator[slice]:
    """Prototypes, as many at a time as make good use of the device."""
    num, width = direction.shape
    budget = CPU_CHUNK_BYTES if direction.device.type == 'cpu' else GPU_CHUNK_BYTES
    size = max(budget // (direction.element_size() * (rows + width)), MIN_CHUNK)
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
    if a.is_cuda and a.dtype in (torch.float16, torch.bfloat16):
        return torch.mm(a, b, out_dtype=torch.float32)
    return at_least_float32(a @ b)


def _add_product(out: Tensor, a: Tensor, b: Tensor, first: bool = False) -> None:
    """Add a product, in the dtype of the second factor, to ``out``, or write it there."""
    a = a.to(b.dtype)
    if out.dtype != b.dtype:
        out.copy_(_product(a, b)) if first else out.add_(_product(a, b))
    elif first:
        torch.mm(a, b, out=out)
    else:
        out.addmm_(a, b)
