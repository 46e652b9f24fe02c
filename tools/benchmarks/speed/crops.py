# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Crops on one core of the CPU, from JPEG to views."""

from benchmark_multi_crop import measure_crops

from .result import Measured, Result, Settings


def crops(settings: Settings) -> Measured:
    """MultiCrop against a plain Pillow pipeline; see ``benchmark_multi_crop.py``.

    Args:
        settings (Settings): What the user asked for.

    Returns:
        Measured: Images per second.
    """
    ours, plain = measure_crops(rounds=3 if settings.quick else 30)
    what = 'crops of a 500 x 375 JPEG, 2 x 224 + 8 x 96, one core'
    return Measured([Result('crops', what, 'images/s', ours, plain, 'Pillow', 3, at_least=True)])
