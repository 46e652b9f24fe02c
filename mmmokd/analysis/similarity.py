# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Similarity of what two networks have learned."""

import math

import torch
from torch import Tensor

from mmmokd.utils.errors import ConfigError

MIN_SAMPLES = 4  # with which the unbiased estimate is defined


def linear_cka(first: Tensor, second: Tensor, debiased: bool = True) -> float:
    """Linear CKA: how similar two networks' features of the same images are.

    `Similarity of Neural Network Representations Revisited <https://arxiv.org/abs/1905.00414>`_,
    Kornblith et al., section 3. It does not change if features are rotated, scaled or shifted, and
    takes features of different widths. With fewer images than channels the plain estimate is close
    to 1 for any two networks; the debiased one puts the unbiased estimate of HSIC in its place
    (Song et al., "Feature selection via dependence maximization", JMLR 2012, eq. 5).

    Args:
        first (Tensor): Features of n images, shape (n, C).
        second (Tensor): Features of the same images in the same order, shape (n, D).
        debiased (bool): Whether to use the unbiased estimate. Defaults to True.

    Returns:
        float: 1 for the same features, up to rotation and scale; about 0 for unrelated ones, where
        the debiased estimate can be slightly negative. NaN if the features of one network do not
        vary more than by chance.

    Raises:
        ConfigError: If the features are not those of the same number of images, at least 4.
    """
    shapes = [tuple(each.shape) for each in (first, second)]
    if [len(shape) for shape in shapes] != [2, 2] or shapes[0][0] != shapes[1][0]:
        raise ConfigError(f'features must be of shapes (n, C) and (n, D), but got {shapes}')
    if len(first) < MIN_SAMPLES:
        raise ConfigError(f'CKA needs at least {MIN_SAMPLES} images, but got {len(first)}')
    x, y = (each.double() - each.double().mean(dim=0) for each in (first, second))
    hsic = _unbiased_hsic if debiased else _hsic
    scale = hsic(x, x).clamp(min=0) * hsic(y, y).clamp(min=0)
    if scale == 0 or not (_varies(x, first) and _varies(y, second)):
        return math.nan
    return (hsic(x, y) / scale.sqrt()).item()


def _hsic(x: Tensor, y: Tensor) -> Tensor:
    """HSIC of centered features with linear kernels, up to a factor."""
    return (x.T @ y).square().sum()


def _unbiased_hsic(x: Tensor, y: Tensor) -> Tensor:
    """The unbiased one, up to a factor, without the kernels' (n, n) matrices.

    Song et al. have tr(KL) + sum(K) sum(L) / ((n - 1)(n - 2)) - 2 sum(KL) / (n - 2) of the kernels with
    a diagonal of 0. Of centered features the rows of the full kernels add up to 0, so those of K and L
    to minus their diagonals k and l, and tr(KL) is ||X^T Y||^2 - sum(k l).
    """
    n = len(x)
    k, l = x.square().sum(dim=1), y.square().sum(dim=1)  # noqa: E741
    return _hsic(x, y) + k.sum() * l.sum() / ((n - 1) * (n - 2)) - (k * l).sum() * n / (n - 2)


def _varies(centered: Tensor, features: Tensor) -> bool:
    """Of features that are all the same, centering leaves rounding errors."""
    noise = torch.finfo(features.dtype).eps * max(features.shape) * features.norm()
    return centered.norm().item() > noise.item()
