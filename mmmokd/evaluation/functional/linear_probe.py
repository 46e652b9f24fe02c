# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmmokd.utils.errors import ConfigError, DataError
from mmmokd.utils.stratify import stratified_share

from .checks import check_features, check_finite

MOMENTUM = 0.9
INIT_STD = 0.01
BASE_BATCH_SIZE = 256  # that the learning rates are for


class LinearClassifiers(NamedTuple):
    """Linear classifiers of the same features, side by side.

    Attributes:
        weight (Tensor): Shape (L, C, K) for L classifiers, C channels, K classes.
        bias (Tensor): Shape (L, K).
    """

    weight: Tensor
    bias: Tensor


class LinearProbe(NamedTuple):
    """Outcome of :func:`linear_probe`.

    Attributes:
        predictions (Tensor): Class ids of the queries by falling score, shape (Q, topk), int64;
            -1 where there are fewer than ``topk`` classes.
        lr (float): Learning rate of the classifier that made them.
        held_out (dict[float, float]): Top-1 on the held-out share of the bank, in percent, by
            learning rate; empty if there was one rate and nothing to choose.
    """

    predictions: Tensor
    lr: float
    held_out: dict[float, float]


@torch.no_grad()
def linear_probe(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    lrs: Sequence[float],
    num_classes: int | None = None,
    epochs: int = 100,
    batch_size: int = 256,
    held_out_share: float = 0.1,
    topk: int = 5,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> LinearProbe:
    """Classification of frozen features by a linear layer that is trained on a bank of them.

    Of several learning rates the best is chosen on a share of the bank, the same share of every
    class, that the classifiers have not seen: never on the queries. The classifiers of all rates are
    trained together on the rest, in one pass over the features; then one of the chosen rate is
    trained on all of the bank. Of equally good rates the smallest is taken.

    Args:
        bank (Tensor): Labeled features, shape (N, C).
        bank_labels (Tensor): Class ids of the bank, shape (N, ), integer.
        queries (Tensor): Features to classify, shape (Q, C); Q may be 0.
        lrs (Sequence[float]): Learning rates for a batch of 256, see :func:`train_linear`.
        num_classes (int, optional): Number of classes. Defaults to None: the bank's largest label
            plus one.
        epochs (int): Passes over the bank. Defaults to 100.
        batch_size (int): Features a step. Defaults to 256.
        held_out_share (float): Share of the bank to choose by. Defaults to 0.1.
        topk (int): Classes to return for each query. Defaults to 5.
        seed (int): Of the held-out share, the initial weights and the order. Defaults to 0.
        device (torch.device | str, optional): Where to compute. Defaults to None: where the
            queries are.

    Returns:
        LinearProbe: Predictions on the queries' device, chosen rate, and how the rates compared.

    Raises:
        ValueError: If shapes, labels or settings do not fit, a feature is not finite, or no class
            of the bank has two images, so that there is nothing to hold out.

    Example:
        >>> bank, queries = torch.randn(100, 16), torch.randn(7, 16)
        >>> linear_probe(bank, torch.arange(100) % 3, queries, lrs=(0.01, 0.1)).predictions.shape
        torch.Size([7, 5])
    """
    num_classes = check_features(bank, bank_labels, queries, num_classes)
    for features, name in ((bank, 'bank'), (queries, 'query')):
        check_finite(features, name)
    lrs = check_probe_settings(lrs, epochs, batch_size)
    device = torch.device(device) if device is not None else queries.device
    settings = dict(epochs=epochs, batch_size=batch_size, seed=seed, device=device)
    lr, held_out = _choose_rate(bank, bank_labels, num_classes, lrs, held_out_share, settings)
    classifiers = train_linear(bank, bank_labels, num_classes, [lr], **settings)
    return LinearProbe(classify_linear(classifiers, queries, topk)[0], lr, held_out)


def check_probe_settings(lrs: Sequence[float], epochs: int, batch_size: int) -> tuple[float, ...]:
    """Check the settings of a linear probe.

    Args:
        lrs (Sequence[float]): Learning rates.
        epochs (int): Passes over the bank.
        batch_size (int): Features a step.

    Returns:
        tuple[float, ...]: The rates, each once, ascending.

    Raises:
        ValueError: If there is no rate, or a setting is not positive and finite.
    """
    if not lrs or not all(0 < lr < math.inf for lr in lrs):
        raise ConfigError(
            f'a linear probe needs learning rates that are positive numbers, but got {list(lrs)}'
        )
    if epochs < 1 or batch_size < 1:
        raise ConfigError(
            f'a linear probe needs at least one epoch and one feature a step, but got '
            f'epochs={epochs} and batch_size={batch_size}'
        )
    return tuple(sorted(set(lrs)))


def train_linear(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    lrs: Sequence[float],
    epochs: int = 100,
    batch_size: int = 256,
    seed: int = 0,
    rows: Tensor | None = None,
    device: torch.device | str | None = None,
) -> LinearClassifiers:
    """Train a linear classifier for each of some learning rates, all at the same time.

    Cross-entropy, SGD with momentum 0.9 and no weight decay, learning rate
    ``lr * batch_size / 256``, from epoch to epoch by a cosine to 0, as DINO evaluates its models.
    The classifiers start from one draw (normal, 0.01; zero biases) and see the same batches, which
    go to ``device`` one by one. One classifier's result is the same whatever other rates there are,
    but for rounding.

    Args:
        features (Tensor): Shape (N, C). Trained in float64 if they are, else in float32.
        labels (Tensor): Class ids, shape (N, ), integer.
        num_classes (int): Number of classes K.
        lrs (Sequence[float]): L learning rates for a batch of 256.
        epochs (int): Passes over the features. Defaults to 100.
        batch_size (int): Features a step; the last step of an epoch may have fewer. Defaults to
            256.
        seed (int): Of the initial weights and the order of the features. Defaults to 0.
        rows (Tensor, optional): Indices of the features to train on, int64. Defaults to None: all.
        device (torch.device | str, optional): Where to compute. Defaults to None: where the
            features are.

    Returns:
        LinearClassifiers: On ``device``.
    """
    device = torch.device(device) if device is not None else features.device
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    generator = torch.Generator().manual_seed(seed)
    channels, rates = features.shape[1], len(lrs)
    first = torch.randn(channels, num_classes, generator=generator) * INIT_STD
    # (C, L * K): one matrix product serves all classifiers.
    weight = first.to(device, dtype).repeat(1, rates)
    bias = weight.new_zeros(rates * num_classes)
    velocities = torch.zeros_like(weight), torch.zeros_like(bias)
    base = torch.tensor(lrs, dtype=dtype, device=device).repeat_interleave(num_classes)
    base = base * batch_size / BASE_BATCH_SIZE  # (L * K, )
    rows = torch.arange(len(features)) if rows is None else rows
    rows = rows.to(features.device)
    with torch.autocast(device.type, enabled=False):
        for epoch in range(epochs):
            step = base * (0.5 * (1 + math.cos(math.pi * epoch / epochs)))
            order = rows[torch.randperm(len(rows), generator=generator).to(rows.device)]
            for batch in order.split(batch_size):
                x = features[batch].to(device, dtype)  # (B, C)
                y = labels[batch.to(labels.device)].to(device)
                _sgd_step(weight, bias, velocities, x, y, step, num_classes)
    weight = weight.unflatten(1, (rates, num_classes)).transpose(0, 1)
    return LinearClassifiers(weight, bias.unflatten(0, (rates, num_classes)))


def classify_linear(
    classifiers: LinearClassifiers, features: Tensor, topk: int = 5, chunk_size: int = 4096
) -> Tensor:
    """Class ids of features by each of some classifiers.

    Args:
        classifiers (LinearClassifiers): L classifiers of K classes.
        features (Tensor): Shape (Q, C).
        topk (int): Classes to return for each. Defaults to 5.
        chunk_size (int): Rows at a time. Defaults to 4096.

    Returns:
        Tensor: By falling score, shape (L, Q, topk), int64, on the features' device; -1 where there
        are fewer than ``topk`` classes.
    """
    weight, bias = classifiers
    out = torch.full((len(weight), len(features), topk), -1, device=features.device)
    found = min(topk, weight.shape[2])
    with torch.autocast(weight.device.type, enabled=False):
        for start in range(0, len(features), chunk_size):
            rows = slice(start, start + chunk_size)
            scores = features[rows].to(weight) @ weight + bias[:, None]  # (L, B, K)
            out[:, rows, :found] = scores.topk(found, dim=2).indices.to(out.device)
    return out


def _sgd_step(
    weight: Tensor,
    bias: Tensor,
    velocities: tuple[Tensor, Tensor],
    x: Tensor,
    y: Tensor,
    step: Tensor,
    num_classes: int,
) -> None:
    """One step of L classifiers on a batch, in place: weight (C, L * K), bias and step (L * K, )."""
    logits = torch.addmm(bias, x, weight).unflatten(1, (-1, num_classes))  # (B, L, K)
    # The gradient of the mean cross-entropy: (softmax - one-hot) / B.
    grad = logits.softmax(dim=2)
    grad[torch.arange(len(y), device=y.device), :, y] -= 1
    # CPUs multiply denormal numbers a hundred times slower, and such numbers are lost in the sum
    # anyway.
    negligible = 1e8 * torch.finfo(grad.dtype).tiny
    grad = F.hardshrink(grad.flatten(1) / len(y), negligible)  # (B, L * K)
    weight_velocity, bias_velocity = velocities
    weight_velocity.mul_(MOMENTUM).addmm_(x.T, grad)
    bias_velocity.mul_(MOMENTUM).add_(grad.sum(dim=0))
    weight.addcmul_(weight_velocity, step, value=-1)
    bias.addcmul_(bias_velocity, step, value=-1)


def _choose_rate(
    bank: Tensor,
    labels: Tensor,
    num_classes: int,
    lrs: tuple[float, ...],
    share: float,
    settings: dict,
) -> tuple[float, dict[float, float]]:
    """The best of ascending learning rates on a held-out share, and the top-1 there of each."""
    if len(lrs) == 1:
        return lrs[0], {}
    held = _hold_out(labels, share, settings['seed'])
    rows = (~held).nonzero().flatten()
    classifiers = train_linear(bank, labels, num_classes, lrs, rows=rows, **settings)
    classes = classify_linear(classifiers, bank[held], topk=1)[..., 0]  # (L, number held out)
    hits = (classes == labels[held].to(classes)).double().mean(dim=1)
    held_out = dict(zip(lrs, (100 * hits).tolist(), strict=True))
    # max() takes the first of equals, and the rates ascend.
    return max(lrs, key=held_out.get), held_out


def _hold_out(labels: Tensor, share: float, seed: int) -> Tensor:
    """Select the images of the bank to choose the learning rate by, shape (N, ), bool."""
    # One image of each class at the least, and not the only one.
    indices = stratified_share(labels.cpu().numpy(), share, seed, min_per_class=1, min_left=1)
    if not len(indices):
        raise DataError(
            f'to choose between learning rates, some images of the bank are held out, but none of '
            f'its {len(labels)} images has another of its class: give one learning rate'
        )
    held = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    held[torch.from_numpy(indices)] = True
    return held
