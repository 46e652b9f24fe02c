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
    found = measure_crops(rounds=1 if settings.quick else 10)
    rates = [found[side]['images_per_s'] for side in ('ours', 'plain')]
    width, height = found['image']
    what = f'{found["views"]} views of a {width} x {height} JPEG, reading included, one core'
    return Measured([Result('crops', what, 'images/s', *rates, 'plain Pillow', 3, at_least=True)])
