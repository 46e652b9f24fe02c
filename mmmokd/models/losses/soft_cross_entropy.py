# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import torch
import torch.nn.functional as F
from torch import Tensor

from mmmokd.utils.errors import ConfigError


def soft_cross_entropy(log_probs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy between soft targets and log-probabilities of the same samples.

    Args:
        log_probs (Tensor): Log-probabilities, shape (B, K).
        targets (Tensor): Probabilities, shape (B, K).

    Returns:
        Tensor: Scalar.

    Raises:
        ConfigError: If the shapes differ.
    """
    if log_probs.shape != targets.shape:
        raise ConfigError(
            f'students {tuple(log_probs.shape)} and targets {tuple(targets.shape)} must have the '
            'same shape (B, K)'
        )
    return -(targets * log_probs).sum(dim=-1).mean()


def multi_view_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over all pairs of a teacher's view and another student's view.

    The plain formula, in G * V - G cross-entropies::

        pairs = [(g, v) for g in range(G) for v in range(V) if v != g]
        loss = mean(soft_cross_entropy(log_softmax(logits[v]), targets[g]) for g, v in pairs)

    A cross-entropy is linear in the target and in the log-probabilities, so all pairs are one
    product of two sums, less the G pairs of a view with itself. That reads the (V, B, K) logits
    once instead of G times.

    Args:
        logits (Tensor): Students' logits over the temperature, shape (V, B, K). The first G views
            are those that the teacher saw.
        targets (Tensor): Teachers' probabilities, shape (G, B, K).

    Returns:
        Tensor: Scalar.

    Raises:
        ConfigError: If B or K differ, there are fewer student views than teacher views, or no pair
            of different views.
    """
    num_views, num_targets = logits.shape[0], targets.shape[0]
    if logits.dim() != 3 or logits.shape[1:] != targets.shape[1:] or num_views < num_targets:
        raise ConfigError(
            'expected student logits (V, B, K) and targets (G, B, K) with V >= G and equal B and '
            f'K, but got {tuple(logits.shape)} and {tuple(targets.shape)}'
        )
    num_pairs = num_targets * num_views - num_targets
    if num_pairs == 0:
        raise ConfigError(
            f'{num_views} student views and {num_targets} teacher views make no pair of different '
            'views'
        )
    log_probs = F.log_softmax(logits, dim=-1)  # (V, B, K)
    all_pairs = (log_probs.sum(dim=0) * targets.sum(dim=0)).sum()
    same_view = (log_probs[:num_targets] * targets).sum()
    return (same_view - all_pairs) / (num_pairs * logits.shape[1])


def teacher_probabilities(
    logits: Tensor, temperature: float, center: Tensor | None = None
) -> Tensor:
    """Sharpened, optionally centered, probabilities of a teacher.

    Args:
        logits (Tensor): Shape (..., K).
        temperature (float): T_t.
        center (Tensor, optional): Shape (1, K). Defaults to None, not centered.

    Returns:
        Tensor: softmax((logits - center) / temperature), shape (..., K), at least float32.
    """
    logits = at_least_float32(logits)
    if center is not None:
        logits = logits - center
    return F.softmax(logits / temperature, dim=-1)


def at_least_float32(x: Tensor) -> Tensor:
    """Widen half precision: a softmax over thousands of prototypes needs more than 8 or 11 bits."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
