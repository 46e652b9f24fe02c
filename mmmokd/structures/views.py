# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Views(NamedTuple):
    """The views of a batch of B images.

    Attributes:
        globals (list[Tensor]): G views of one size, each (B, 3, H, W): those the teachers see.
        locals (list[Tensor]): L further views, each (B, 3, h, w), of any sizes.
        data_samples (list, optional): One data sample per image, with what the pipeline packed
            (labels, masks). Defaults to None.
        mix_share (Tensor, optional): Where local views are mixtures of two images (CutMix), the share of
            the first, scalar. Defaults to None, no mixtures.
    """

    globals: list[Tensor]
    locals: list[Tensor]
    data_samples: list | None = None
    mix_share: Tensor | None = None

    def choose(self, numbers: Sequence[int]) -> Views:
        """The views that one branch sees.

        Args:
            numbers (Sequence[int]): Numbers of the views, counted from 0, the global ones first.

        Returns:
            Views: These views, in this order; global ones stay global. With the data samples.
        """
        first = len(self.globals)
        return Views(
            [self.globals[i] for i in numbers if i < first],
            [self.locals[i - first] for i in numbers if i >= first],
            self.data_samples,
            self.mix_share,
        )
