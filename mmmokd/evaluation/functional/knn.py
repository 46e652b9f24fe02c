# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmmokd.utils.errors import ConfigError, DataError

from .checks import check_features, check_finite


@torch.no_grad()
def weighted_knn(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    num_classes: int | None = None,
    k: int | Sequence[int] = (10, 20),
    temperature: float = 0.07,
    topk: int = 5,
    chunk_size: int = 4096,
    device: torch.device | str | None = None,
    identities: tuple[Tensor, Tensor] | None = None,
) -> dict[int, Tensor]:
    """Exact weighted nearest-neighbor classification of features.

    As in `DINO <https://arxiv.org/abs/2104.14294>`_ and `Unsupervised Feature Learning via
    Non-Parametric Instance Discrimination <https://arxiv.org/abs/1805.01978>`_: each of a query's
    k nearest neighbors by cosine similarity s votes for its class with weight exp(s / T).

    At most ``chunk_size x chunk_size`` similarities exist at a time, and the bank goes to
    ``device`` by chunks, once. Half precision is raised to float32, and autocast is off. Among
    neighbors of exactly equal similarity at the k-th place the choice is arbitrary.

    Args:
        bank (Tensor): Labeled features, shape (N, C), of any norm.
        bank_labels (Tensor): Class ids of the bank, shape (N, ), integer.
        queries (Tensor): Features to classify, shape (Q, C); Q may be 0.
        num_classes (int, optional): Defaults to None: the bank's largest label plus one.
        k (int | Sequence[int]): Numbers of neighbors; the neighbors of the largest serve all.
            Defaults to (10, 20).
        temperature (float): Temperature T of the votes. Defaults to 0.07.
        topk (int): Classes to return for each query. Defaults to 5.
        chunk_size (int): Rows of bank and queries that are compared at a time. Defaults to 4096.
        device (torch.device | str, optional): Where to compute. Defaults to None: as the queries.
        identities (tuple[Tensor, Tensor], optional): Numbers of the images of the bank, (N, ), and
            of the queries, (Q, ), int64. What has a query's own number is not its neighbor; -1 is
            no number. Defaults to None: all are different images.

    Returns:
        dict[int, Tensor]: For each k the class ids by falling vote, shape (Q, topk), int64, on the
        queries' device; -1 where the neighbors are of fewer than ``topk`` classes.

    Raises:
        ValueError: If a k is not within 1 and the bank's size without a query's own image, shapes
            or labels do not fit, or a feature is not finite.

    Example:
        >>> bank, queries = torch.randn(100, 16), torch.randn(7, 16)
        >>> weighted_knn(bank, torch.arange(100) % 3, queries, k=5)[5].shape
        torch.Size([7, 5])
    """
    ks = (k,) if isinstance(k, int) else tuple(k)
    own = _count_own(identities)
    check_num_neighbors(ks, len(bank), own)
    _check_temperature(temperature)
    num_classes = check_features(bank, bank_labels, queries, num_classes)
    identities = identities if own else None
    near = _nearest(bank, bank_labels, queries, max(ks), chunk_size, device, identities)
    votes = {n: _vote(*near, n, num_classes, temperature, topk, chunk_size) for n in ks}
    return {n: classes.to(queries.device) for n, classes in votes.items()}


@torch.no_grad()
def nearest_neighbors(
    features: Tensor,
    k: int = 5,
    chunk_size: int = 4096,
    device: torch.device | str | None = None,
) -> Tensor:
    """Find every feature's nearest others by cosine similarity, exactly.

    Args:
        features (Tensor): Shape (N, C), of any norm.
        k (int): Number of neighbors. Defaults to 5.
        chunk_size (int): Rows compared at a time. Defaults to 4096.
        device (torch.device | str, optional): Where to compute. Defaults to None: where the features
            are.

    Returns:
        Tensor: Numbers of the rows, the nearest first, never a row's own. Shape (N, k), int64, on
        the CPU.

    Raises:
        ValueError: If there are not k others, or a feature is not finite.

    Example:
        >>> nearest_neighbors(torch.tensor([[1., 0.], [0., 1.], [1., 1.], [3., 2.]]), k=1).flatten()
        tensor([3, 2, 3, 2])
    """
    check_num_neighbors((k,), len(features), num_own=1)
    numbers = torch.arange(len(features))
    _, found = _nearest(features, numbers, features, k, chunk_size, device, (numbers, numbers))
    return found.cpu()


def _count_own(identities: tuple[Tensor, Tensor] | None) -> int:
    """Count the images of the bank that are the same query, at most."""
    if identities is None:
        return 0
    bank, queries = identities
    both = bank[(bank >= 0) & torch.isin(bank, queries)]
    return int(both.unique(return_counts=True)[1].max()) if len(both) else 0


def check_num_neighbors(ks: Sequence[int], num_bank: int, num_own: int = 0) -> None:
    """Check that a bank holds as many images as neighbors are asked for.

    Args:
        ks (Sequence[int]): Numbers of neighbors.
        num_bank (int): Number of images in the bank.
        num_own (int): Of these, the most that are a query itself, and so not its neighbors.
            Defaults to 0.

    Raises:
        ValueError: If there is no k, one is below 1, or one is above what is left of ``num_bank``.
    """
    if not ks or min(ks) < 1:
        raise ConfigError(f'k-NN needs numbers of neighbors k of at least 1, but got k={list(ks)}')
    if max(ks) > num_bank:
        raise DataError(
            f'k-NN with k={max(ks)} neighbors needs a bank of at least {max(ks)} labeled images, '
            f'but the bank has {num_bank}'
        )
    if max(ks) > num_bank - num_own:
        raise DataError(
            f'k-NN with k={max(ks)} neighbors needs a bank of at least {max(ks) + num_own} images, '
            f'for {num_own} of them can be the query itself, but the bank has {num_bank}'
        )


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ConfigError(f'the temperature of k-NN must be positive, but got {temperature}')


def _normalize(features: Tensor, device: torch.device, name: str) -> Tensor:
    """Features of unit length on a device, in float32 or, where they are, float64."""
    features = features.to(device)
    features = features if features.dtype == torch.float64 else features.float()
    check_finite(features, name)
    return F.normalize(features, dim=1)


def _nearest(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    k: int,
    chunk_size: int,
    device: torch.device | str | None,
    identities: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """Similarities and labels of every query's k nearest neighbors, nearest first: (Q, k) each."""
    device = torch.device(device) if device is not None else queries.device
    queries = _normalize(queries, device, 'query')
    best = queries.new_full((len(queries), k), -torch.inf)
    best_labels = torch.full((len(queries), k), -1, dtype=torch.long, device=device)
    key_ids, query_ids = (x.to(device) for x in identities) if identities else (None, None)
    for bank_start in range(0, len(bank), chunk_size):
        part = slice(bank_start, bank_start + chunk_size)
        keys = _normalize(bank[part], device, 'bank').to(queries.dtype)
        key_labels = bank_labels[part].to(device, torch.long)
        for start in range(0, len(queries), chunk_size):
            rows = slice(start, start + chunk_size)
            with torch.autocast(device.type, enabled=False):
                scores = queries[rows] @ keys.T
            if identities:
                own = query_ids[rows, None] == key_ids[part]
                # The lowest of all: there are k others, and so none of these is left in the end.
                scores.masked_fill_(own & (query_ids[rows, None] >= 0), -torch.inf)
            values, indices = scores.topk(min(k, len(keys)), dim=1)
            values = torch.cat((best[rows], values), dim=1)
            labels = torch.cat((best_labels[rows], key_labels[indices]), dim=1)
            best[rows], indices = values.topk(k, dim=1)
            best_labels[rows] = labels.gather(1, indices)
    return best, best_labels


def _vote(
    similarity: Tensor,
    labels: Tensor,
    k: int,
    num_classes: int,
    temperature: float,
    topk: int,
    chunk_size: int,
) -> Tensor:
    """Classes by falling sum of the weights of the first k neighbors, (Q, topk)."""
    similarity, labels = similarity[:, :k], labels[:, :k]
    predictions = labels.new_full((len(labels), topk), -1)
    for start in range(0, len(labels), chunk_size):
        rows = slice(start, start + chunk_size)
        # The nearest neighbor's weight is taken as 1: the order of the votes is the same, and
        # exp cannot overflow at a low temperature.
        weights = ((similarity[rows] - similarity[rows, :1]) / temperature).exp()
        # Absent classes stay below zero, so that no vote is told from a vote that underflowed.
        votes = weights.new_full((len(weights), num_classes), -1)
        votes.scatter_(1, labels[rows], 0).scatter_add_(1, labels[rows], weights)
        values, classes = votes.topk(min(topk, num_classes), dim=1)
        predictions[rows, : classes.shape[1]] = classes.where(values >= 0, -1)
    return predictions
