# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Label-free signs of what a self-supervised model learns, or that it learns nothing."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmmokd.utils.errors import ConfigError


class PrototypeEntropy(NamedTuple):
    """Entropies that show how prototypes are used; see :func:`prototype_entropy`.

    Attributes:
        mean (Tensor): Mean entropy of a sample's probabilities, in nats, scalar.
        of_mean (Tensor): Entropy of the mean probabilities, in nats, scalar.
        mean_share (Tensor): ``mean`` as a share of log K: 1 if every sample is uniform.
        of_mean_share (Tensor): ``of_mean`` as a share of log K: 1 if all prototypes are used alike.
    """

    mean: Tensor
    of_mean: Tensor
    mean_share: Tensor
    of_mean_share: Tensor


def prototype_entropy(probs: Tensor) -> PrototypeEntropy:
    """Entropy of samples' probabilities over prototypes, and of their mean.

    The two collapses of self-distillation (`DINO <https://arxiv.org/abs/2104.14294>`_, section 5.3)
    show as follows. Uniform targets: both entropies are log K. One prototype, or one distribution,
    for all samples: the two entropies are equal.

    Args:
        probs (Tensor): Probabilities of n samples over K prototypes, shape (n, K).

    Returns:
        PrototypeEntropy: Entropies in nats and as shares of log K.

    Raises:
        ConfigError: If there is no sample or fewer than two prototypes, or rows do not add up to 1.
    """
    probs = _check_probs(probs)
    mean = torch.special.entr(probs).sum(dim=1).mean()
    of_mean = torch.special.entr(probs.mean(dim=0)).sum()
    largest = math.log(probs.shape[1])
    return PrototypeEntropy(mean, of_mean, mean / largest, of_mean / largest)


def mutual_information(probs: Tensor) -> Tensor:
    """Mutual information of sample and prototype, H(mean p) - mean H(p), in nats.

    0 if all samples have the same probabilities, whatever they are, and at most log of the number
    of samples or of prototypes, whichever is less. It is what discriminative clustering maximizes
    (Krause, Perona and Gomes, "Discriminative clustering by regularized information maximization",
    NIPS 2010).

    Args:
        probs (Tensor): Probabilities of n samples over K prototypes, shape (n, K).

    Returns:
        Tensor: Scalar, at least 0.

    Raises:
        ConfigError: If there are fewer than two samples or prototypes, or rows do not add up to 1.
    """
    if probs.ndim == 2 and len(probs) < 2:
        raise ConfigError(f'mutual information needs at least 2 samples, but got {len(probs)}')
    entropy = prototype_entropy(probs)
    return (entropy.of_mean - entropy.mean).clamp(min=0)


def feature_std(features: Tensor) -> Tensor:
    """Standard deviation of L2-normalized features, relative to features of all directions.

    Mean over channels of the standard deviation over samples, times sqrt(C): about 1 if directions
    are isotropic, 0 if all samples have the same one
    (`SimSiam <https://arxiv.org/abs/2011.10566>`_, section 4.1). Features after a ReLU stay
    below 1, for they share the positive orthant.

    Args:
        features (Tensor): Features of n samples, shape (n, C).

    Returns:
        Tensor: Scalar.

    Raises:
        ConfigError: If there are fewer than two samples.
    """
    features = F.normalize(_check_features(features), dim=1)
    return features.std(dim=0, unbiased=False).mean() * math.sqrt(features.shape[1])


def effective_rank(features: Tensor) -> Tensor:
    """Effective rank: how many directions the features spread over.

    exp of the entropy of the singular values of the centered features, normalized to sum 1 (Roy and
    Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007).

    Args:
        features (Tensor): Features of n samples, shape (n, C).

    Returns:
        Tensor: Scalar from 1 to min(n - 1, C); 0 if all samples are the same up to rounding.

    Raises:
        ConfigError: If there are fewer than two samples.
    """
    features = _check_features(features)
    values = torch.linalg.svdvals(features - features.mean(dim=0))
    # Of samples that are all the same, centring leaves rounding errors, which have a high rank.
    noise = torch.finfo(features.dtype).eps * max(features.shape) * features.norm()
    values = values.where(values > noise, 0)
    total = values.sum()
    if total == 0:
        return total
    return torch.special.entr(values / total).sum().exp()


def _check_probs(probs: Tensor) -> Tensor:
    if probs.ndim != 2 or len(probs) < 1 or probs.shape[1] < 2:
        raise ConfigError(
            'probabilities must be of shape (n, K), with at least 1 sample and 2 prototypes, but '
            f'are {tuple(probs.shape)}'
        )
    probs = probs if probs.dtype == torch.float64 else probs.float()
    # A tolerance for rows that were rounded to half precision; NaN is not within it.
    bad = (~((probs.sum(dim=1) - 1).abs() <= 1e-2)).sum().item()
    if bad:
        raise ConfigError(f'{bad} of {len(probs)} rows of probabilities do not add up to 1')
    return probs


def _check_features(features: Tensor) -> Tensor:
    if features.ndim != 2 or len(features) < 2:
        raise ConfigError(
            f'features must be of shape (n, C) with at least 2 samples, but are '
            f'{tuple(features.shape)}'
        )
    return features if features.dtype == torch.float64 else features.float()
