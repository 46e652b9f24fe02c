# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The rows of tools/benchmarks/speed.py. Light to import: a row's module is imported as it runs."""

import importlib
from collections.abc import Callable

# By kind of device: the rows, and the module that measures each (by a function of the row's name).
ROWS = dict(
    cpu=dict(
        loss='loss',
        step='step',
        step_memory='step',
        bf16='step',
        crops='crops',
        threads='threads',
        growth='growth',
    ),
    cuda=dict(
        step='step',
        loss='loss',
        growth='growth',
        cifar='data',
        loader='data',
        start='data',
    ),
)


def row_function(name: str, device: str) -> Callable:
    """Find what measures a row.

    Args:
        name (str): The row.
        device (str): ``'cpu'`` or ``'cuda'``.

    Returns:
        Callable: Takes :class:`~speed.result.Settings` and returns a
        :class:`~speed.result.Measured`.
    """
    return getattr(importlib.import_module(f'speed.{ROWS[device][name]}'), name)
