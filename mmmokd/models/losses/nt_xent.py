# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmmokd.utils.errors import ConfigError

from .soft_cross_entropy import at_least_float32


class NTXent(NamedTuple):
    """The NT-Xent loss of two views, and how often it is right.

    Attributes:
        loss (Tensor): Scalar.
        accuracy (Tensor): Share of the features, in percent, whose most similar one is of the same
            image. Scalar, without gradient.
    """

    loss: Tensor
    accuracy: Tensor


def nt_xent(
    first: Tensor,
    second: Tensor,
    temperature: float = 0.5,
    everything: tuple[Tensor, Tensor] | None = None,
    start: int = 0,
) -> NTXent:
    """Normalized temperature-scaled cross-entropy, equation 1 of `SimCLR
    <https://arxiv.org/abs/2002.05709>`_.

    Of 2 N features z, cosines s over the temperature: for each feature the cross-entropy of finding
    that of the same image's other view among all others. The plain formula::

        -log(exp(s[i, j]) / sum(exp(s[i, k]) for k in range(2 * N) if k != i))

    averaged over the 2 N features i, with j the other view of i.

    Args:
        first (Tensor): Features of one view, shape (B, D).
        second (Tensor): Those of the other view, shape (B, D).
        temperature (float): Defaults to 0.5.
        everything (tuple[Tensor, Tensor], optional): The same of the N images of all processes, each
            (N, D), among which the features are to be found. Defaults to None: N is B.
        start (int): Which of the N images is the first of the B. Defaults to 0.

    Returns:
        NTXent: Loss and accuracy, means over the 2 B features.

    Raises:
        ConfigError: If N is below 2: there is no other image.
    """
    everything = everything or (first, second)
    num_own, num_all = len(first), len(everything[0])
    if num_all < 2:
        raise ConfigError(
            'NT-Xent compares an image with others, so it needs at least 2 images in a batch (of all '
            f'processes), but got {num_all}: use a larger batch_size, and drop_last=True'
        )
    queries, keys = (
        F.normalize(torch.cat([at_least_float32(x) for x in views]), dim=1)
        for views in ((first, second), everything)
    )  # (2 B, D), (2 N, D)
    rows = torch.arange(2 * num_own, device=first.device)
    places = start + rows % num_own + num_all * (rows // num_own)  # of each feature among all
    partners = (places + num_all) % (2 * num_all)
    logits = queries @ keys.T / temperature  # (2 B, 2 N)
    logits = logits.scatter(1, places[:, None], float('-inf'))
    right = logits.detach().argmax(dim=1) == partners
    return NTXent(F.cross_entropy(logits, partners), 100 * right.float().mean())
