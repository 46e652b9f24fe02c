# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from typing import NamedTuple

from torch import Tensor


class BackboneFeatures(NamedTuple):
    """Features that a branch reads from a backbone.

    Attributes:
        pooled (Tensor): One feature per image, shape (B, C): the class token where the backbone has
            one, else the mean over the map.
        tokens (Tensor): The last map, flattened row by row, shape (B, N, C).
        grid (tuple[int, int]): The map's (h, w), N = h * w.
    """

    pooled: Tensor
    tokens: Tensor
    grid: tuple[int, int]
