# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Access to optimizer wrappers, single ones and dicts of them."""

import math
from collections.abc import Iterator

from mmengine.optim import OptimWrapper, OptimWrapperDict


def iter_wrappers(optim_wrapper: OptimWrapper) -> Iterator[tuple[str, OptimWrapper]]:
    """Iterate over the wrappers of single optimizers.

    Args:
        optim_wrapper (OptimWrapper): One, or a dict of them.

    Yields:
        tuple[str, OptimWrapper]: Each with its name, which is '' where there is but one.
    """
    if isinstance(optim_wrapper, OptimWrapperDict):
        yield from optim_wrapper.items()
    else:
        yield '', optim_wrapper


def accumulative_counts(optim_wrapper: OptimWrapper) -> int:
    """Give the number of micro-batches of an optimizer step.

    Args:
        optim_wrapper (OptimWrapper): One, or a dict of them, which accumulate alike; or PyTorch's
            bare optimizer.

    Returns:
        int: At least 1.
    """
    _, first = next(iter_wrappers(optim_wrapper))
    return getattr(first, '_accumulative_counts', 1)  # mmengine has no public name for it


def step_count(optim_wrapper: OptimWrapper) -> int:
    """Count the optimizer steps of a run so far, that of the last micro-batch included.

    Args:
        optim_wrapper (OptimWrapper): One, or a dict of them.

    Returns:
        int: Steps; one that the run has begun counts as a whole.
    """
    _, first = next(iter_wrappers(optim_wrapper))
    return math.ceil(first.inner_count / accumulative_counts(first))
