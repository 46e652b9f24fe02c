# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Time several sides in turn."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

LIMIT = 90  # seconds, after which no further round begins


def synchronize() -> None:
    """Wait until the GPU, if one computes, has done all that it was asked for."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def alternate(
    sides: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1, calls: int = 1
) -> dict[str, float]:
    """Time all sides in turn, so that whatever else the machine does meets all of them.

    Args:
        sides (Mapping[str, Callable]): What to time, by name.
        rounds (int): Times that each is measured; fewer where that takes over ``LIMIT`` seconds.
        warm_up (int): Calls of each before. Defaults to 1.
        calls (int): Calls within a measurement, between which nothing waits for the GPU. Defaults to
            1.

    Returns:
        dict[str, float]: Median of the seconds of one call, by name.
    """
    for side in sides.values():
        for _ in range(warm_up):
            side()
    synchronize()
    times = {name: [] for name in sides}
    begin = time.perf_counter()
    for _ in range(rounds):
        for name, side in sides.items():
            start = time.perf_counter()
            for _ in range(calls):
                side()
            synchronize()
            times[name].append((time.perf_counter() - start) / calls)
        if time.perf_counter() - begin > LIMIT:
            break
    return {name: statistics.median(values) for name, values in times.items()}
