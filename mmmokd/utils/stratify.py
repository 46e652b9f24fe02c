# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Sequence

import numpy as np

from mmmokd.utils.errors import ConfigError


def stratified_share(
    labels: Sequence[int] | np.ndarray,
    share: float,
    seed: int = 0,
    min_per_class: int = 1,
    min_left: int = 0,
) -> np.ndarray:
    """Draw a share of some labeled images, the same share of every class.

    Of a class of n images ``share * n`` are drawn, rounded half up, and not fewer than
    ``min_per_class`` nor more than ``n - min_left``. The draw depends on labels and seed alone.

    Args:
        labels (Sequence[int]): Class id of each image, shape (N, ).
        share (float): Share to draw, above 0, at most 1.
        seed (int): Of the draw. Defaults to 0.
        min_per_class (int): The fewest to draw of a class. Defaults to 1.
        min_left (int): The fewest not to draw of a class. It is kept first. Defaults to 0.

    Returns:
        np.ndarray: Indices of the images drawn, ascending, int64.

    Raises:
        ConfigError: If ``share`` is not above 0 and at most 1, or a count is negative.
    """
    if not 0 < share <= 1:
        raise ConfigError(f'share must be above 0 and at most 1, but got {share}')
    if min_per_class < 0 or min_left < 0:
        raise ConfigError(
            f'counts per class cannot be negative, but got min_per_class={min_per_class} and '
            f'min_left={min_left}'
        )
    labels = np.asarray(labels)
    # RandomState, not default_rng: NumPy promises its numbers for all versions to come.
    order = np.random.RandomState(seed).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind='stable')]
    drawn = []
    for members in np.split(by_class, np.unique(labels[by_class], return_index=True)[1][1:]):
        wanted = max(int(share * len(members) + 0.5), min_per_class)
        drawn.append(members[: max(0, min(wanted, len(members) - min_left))])
    return np.sort(np.concatenate(drawn)).astype(np.int64)
