# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from torch import Tensor

from mmmokd.utils.errors import ConfigError, DataError

CHUNK_SIZE = 4096  # rows


def check_features(
    bank: Tensor, bank_labels: Tensor, queries: Tensor, num_classes: int | None = None
) -> int:
    """Check a labeled bank and queries, as all metrics of features take them.

    Args:
        bank (Tensor): Labeled features, shape (N, C).
        bank_labels (Tensor): Class ids of the bank, shape (N, ), integer.
        queries (Tensor): Features to classify, shape (Q, C).
        num_classes (int, optional): Number of classes. Defaults to None.

    Returns:
        int: ``num_classes``, or else the bank's largest label plus one.

    Raises:
        ConfigError: If the shapes do not fit, the bank is empty, or a label is out of range.
    """
    if bank.ndim != 2 or queries.ndim != 2 or bank.shape[1] != queries.shape[1]:
        raise ConfigError(
            f'bank and queries must be features of shapes (N, C) and (Q, C), but got '
            f'{tuple(bank.shape)} and {tuple(queries.shape)}'
        )
    if bank_labels.shape != bank.shape[:1]:
        raise ConfigError(
            f'the bank has {len(bank)} features, but its labels have the shape '
            f'{tuple(bank_labels.shape)}'
        )
    if not len(bank):
        raise DataError('the bank has no features')
    lowest, highest = int(bank_labels.min()), int(bank_labels.max())
    num_classes = highest + 1 if num_classes is None else num_classes
    if lowest < 0 or highest >= num_classes:
        raise DataError(
            f"the bank's labels must be from 0 to {num_classes - 1} ({num_classes} classes), but "
            f'go from {lowest} to {highest}'
        )
    return num_classes


def check_finite(features: Tensor, name: str) -> None:
    """Check that features are numbers.

    Args:
        features (Tensor): Shape (N, C).
        name (str): For the message, for example ``'query'``.

    Raises:
        ConfigError: If one is not finite; names how many are not.
    """
    chunks = features.split(CHUNK_SIZE)  # a mask of all of a large bank would be large
    bad = sum((~chunk.isfinite().all(dim=1)).sum().item() for chunk in chunks)
    if bad:
        raise DataError(f'{bad} of {len(features)} {name} features are not finite')
