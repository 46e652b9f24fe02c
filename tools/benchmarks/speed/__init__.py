# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The rows of tools/benchmarks/speed.py. Light to import: a row's module is imported as it runs."""

import importlib
from collections.abc import Callable

# Every row, and the module that has a function of its name.
MODULES = dict(
    loss='loss',
    step='step',
    step_memory='step',
    compiled='step',
    bf16='step',
    crops='crops',
    threads='threads',
    growth='growth',
    cifar='data',
    loader='data',
    start='data',
)
# By kind of device: the rows that have goals there, in this order.
ROWS = dict(
    cpu=('loss', 'step', 'step_memory', 'bf16', 'crops', 'threads', 'growth'),
    cuda=('step', 'loss', 'cifar', 'loader', 'start', 'growth'),
)
# Rows that say nothing about the other device.
ONLY = dict(cpu=('step_memory', 'bf16', 'crops', 'threads'), cuda=('compiled',))


def rows_of(device: str) -> list[str]:
    """List the rows that a device can measure.

    Args:
        device (str): ``'cpu'`` or ``'cuda'``.

    Returns:
        list[str]: Those with goals first.
    """
    elsewhere = [name for kind, names in ONLY.items() if kind != device for name in names]
    others = [name for name in MODULES if name not in elsewhere]
    return list(dict.fromkeys([*ROWS[device], *others]))


def row_function(name: str) -> Callable:
    """Find what measures a row.

    Args:
        name (str): The row.

    Returns:
        Callable: Takes :class:`~speed.result.Settings` and returns a
        :class:`~speed.result.Measured`.
    """
    return getattr(importlib.import_module(f'speed.{MODULES[name]}'), name)
