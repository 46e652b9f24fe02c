# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Wait policies of threads: ours against the default of OpenMP, on a quiet and a busy machine."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mmmokd.utils.cpu import WAIT_VARIABLES, available_cpus, set_wait_policy

from .children import Child
from .growth import Size, growth_cfg
from .result import Measured, NotMeasuredError, Result, Settings
from .runs import training

CPUS = 2
STEPS = 2  # of a measurement
LIMIT = 25  # seconds, after which no further round begins


def two_thread_steps(settings: Settings) -> Iterator[float]:
    """Train small models on two threads; runs in a process of its own.

    Args:
        settings (Settings): What the user asked for.

    Yields:
        float: Seconds of a step.
    """
    torch.set_num_threads(CPUS)
    size = Size(2, 16, 1, 2) if settings.quick else Size(16, 4096, 4, 2)
    with training(growth_cfg(size, settings)) as run:
        run.step()
        while True:
            start = time.perf_counter()
            for _ in range(STEPS):
                run.step()
            yield (time.perf_counter() - start) / STEPS


@contextmanager
def _on_two_cpus() -> Iterator[None]:
    """Keep this process, and those that it starts, on two CPUs."""
    if available_cpus() < CPUS or not hasattr(os, 'sched_setaffinity'):
        raise NotMeasuredError(f'it needs Linux and {CPUS} CPUs')
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:CPUS])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def _busy() -> Iterator[None]:
    """A process that computes all the time."""
    process = subprocess.Popen([sys.executable, '-c', 'while True: pass'])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def threads(settings: Settings) -> Measured:
    """A step on two threads, with our wait policy and with OpenMP's default, in turn.

    Args:
        settings (Settings): What the user asked for.

    Returns:
        Measured: Seconds on a quiet machine, and beside a busy process.

    Raises:
        NotMeasuredError: Without two CPUs.
    """
    default = {**dict.fromkeys(WAIT_VARIABLES), 'OMP_NUM_THREADS': str(CPUS)}
    ours: dict[str, str] = {}
    set_wait_policy(ours)
    arguments = ('speed.threads', 'two_thread_steps', settings)
    found = {}
    with (
        _on_two_cpus(),
        Child(*arguments, environment={**default, **ours}) as first,
        Child(*arguments, environment=default) as second,
    ):
        sides = dict(ours=first, default=second)
        for side in sides.values():
            side.ask()
        found['on a quiet machine'] = _in_turn(sides, settings.rounds)
        with _busy():
            found['beside a busy process'] = _in_turn(sides, settings.rounds)
    goals = {'on a quiet machine': 1.05, 'beside a busy process': 1.0}
    results = [
        Result('threads', f'step on two threads {where}', 's', *seconds, 'default', goals[where])
        for where, seconds in found.items()
    ]
    return Measured(results)


def _in_turn(sides: dict[str, Child], rounds: int) -> list[float]:
    """Medians of both."""
    times = {name: [] for name in sides}
    begin = time.perf_counter()
    for _ in range(rounds):
        for name, side in sides.items():
            times[name].append(side.ask())
        if time.perf_counter() - begin > LIMIT:
            break
    return [statistics.median(values) for values in times.values()]
