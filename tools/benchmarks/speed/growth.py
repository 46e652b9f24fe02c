# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Time and memory of a step as batch, prototypes, crops and branches grow, one at a time."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from mmengine.config import Config

from .arithmetic import count_flops
from .memory import PeakMemory
from .result import Measured, Result, Settings, Table, number
from .runs import Case, training
from .step import (
    ACCELERATION,
    BFLOAT16,
    FLOAT32,
    NO_BENCHMARK,
    PAPER,
    QUICK,
    SMALL,
    acceleration_of,
)
from .timing import alternate

NOISE = 1.1  # what a time per operation may rise by before it counts as growth
AXES = dict(
    batch=('images per step', (8, 32, 128, 256)),
    prototypes=('prototypes K', (4096, 16384, 65536, 262144)),
    num_locals=('local crops', (0, 4, 8, 16)),
    branches=('branches', (1, 2, 3, 4)),
)
# Small backbones, so that all of it fits in two minutes of two cores.
NARROW = {
    **QUICK,
    'model.neck_defaults': dict(
        embed_dims=48, hid_channels=256, bottleneck_channels=64, out_channels=4096
    ),
    'model.branches.vit.backbone.arch': dict(
        embed_dims=48, num_layers=4, num_heads=2, feedforward_channels=192
    ),
}


class Size(NamedTuple):
    """Sizes of a step.

    Attributes:
        batch (int): Images.
        prototypes (int): Number K.
        num_locals (int): Local crops per image, beside two global ones.
        branches (int): Branches: a CNN, a ViT, another CNN, another ViT.
    """

    batch: int
    prototypes: int
    num_locals: int
    branches: int


class Point(NamedTuple):
    """A measured size.

    Attributes:
        seconds (float): Of a step.
        flops (int): Of a step.
        peak (int): Memory of a step beyond weights and state, in bytes.
        product (float): Seconds per operation of a plain matrix product, in turn with the step.
    """

    seconds: float
    flops: int
    peak: int
    product: float

    @property
    def per_flop(self) -> float:
        """float: Time per operation over that of the product."""
        return self.seconds / self.flops / self.product


def growth_cfg(size: Size, settings: Settings) -> Config:
    """The config of a size.

    Args:
        size (Size): The size.
        settings (Settings): What the user asked for.

    Returns:
        Config: Of one step after another on the same batch.
    """
    on_gpu = settings.device == 'cuda'
    options = {**NO_BENCHMARK, **({**BFLOAT16, **SMALL} if on_gpu else {**FLOAT32, **NARROW})}
    sides = (128, 64) if on_gpu else (64, 32)
    if settings.quick:
        options, sides = {**options, **NARROW}, (64, 32)
    options['model.global_size'] = options['model.branches.vit.backbone.img_size'] = sides[0]
    case = Case(PAPER, {**options, **settings.options}, size.batch, sides, size.num_locals)
    cfg = case.synthetic(_without_compiler(case))
    cfg.model.neck_defaults.out_channels = size.prototypes
    _set_branches(cfg, size.branches)
    if not size.num_locals:
        for branch in cfg.model.branches.values():
            if branch is not None:
                branch.heads = dict(branch.get('heads') or {}, ct=None)
    return cfg


def _without_compiler(case: Case) -> Mapping[str, Any]:
    """Compiling again for each size would take most of the time, and hides operators."""
    return {f'{ACCELERATION}.compile': False} if acceleration_of(case).get('compile') else {}


def _set_branches(cfg: Config, count: int) -> None:
    """Leave the ViT out, or add copies of both."""
    if count == 1:
        cfg.model.branches.vit = None
    for name in ('cnn', 'vit')[: max(0, count - 2)]:
        for tree in (cfg.model.branches, cfg.optim_wrapper.branches, cfg.param_scheduler):
            tree[f'{name}_2'] = copy.deepcopy(tree[name])


def measure_size(size: Size, settings: Settings) -> Point:
    """Measure a size.

    Args:
        size (Size): The size.
        settings (Settings): What the user asked for.

    Returns:
        Point: Median time, arithmetic and memory.
    """
    product, operations = _matrix_product(settings)
    with training(growth_cfg(size, settings)) as run:
        flops = count_flops(run.step)
        rounds = settings.rounds if settings.device == 'cuda' else min(settings.rounds, 3)
        seconds = alternate(dict(step=run.step, product=product), rounds)
        with PeakMemory(settings.device) as memory:
            run.step()
    return Point(seconds['step'], flops, memory.bytes, seconds['product'] / operations)


def _matrix_product(settings: Settings) -> tuple[Callable[[], object], int]:
    """A product that says how fast the machine is at the moment, and its operations."""
    size = 64 if settings.quick else 8192 if settings.device == 'cuda' else 1024
    dtype = torch.bfloat16 if settings.device == 'cuda' else torch.float32
    matrix = torch.randn(size, size, dtype=dtype, device=settings.device)
    return lambda: matrix @ matrix, 2 * size**3


def growth(settings: Settings) -> Measured:
    """Vary one size at a time around a base.

    Args:
        settings (Settings): What the user asked for.

    Returns:
        Measured: A table for each size, and how time per operation changed along it.
    """
    base = Size(64, 65536, 8, 2) if settings.device == 'cuda' else Size(16, 4096, 4, 2)
    axes = AXES
    if settings.quick:
        base = Size(2, 16, 1, 2)
        axes = dict(
            prototypes=('prototypes K', (16, 32)),
            num_locals=('local crops', (0, 1)),
            branches=('branches', (1, 4)),
        )
    points: dict[Size, Point] = {}
    results, tables = [], []
    for axis, (label, values) in axes.items():
        sizes = {value: base._replace(**{axis: value}) for value in values}
        for size in sizes.values():
            if size not in points:
                points[size] = measure_size(size, settings)
        along = {value: points[size] for value, size in sizes.items()}
        tables.append(_table(axis, label, base, along))
        first, last = along[values[0]], along[values[-1]]
        what = f'time per operation, {label} {values[0]} -> {values[-1]}'
        pair = last.per_flop, first.per_flop
        results.append(Result('growth', what, 'products', *pair, f'at {values[0]}', NOISE))
    return Measured(results, tables)


def _table(axis: str, label: str, base: Size, along: Mapping[int, Point]) -> Table:
    """Time, arithmetic and memory along one axis."""
    fixed = ', '.join(f'{key} {value}' for key, value in base._asdict().items() if key != axis)
    rows = [
        [
            str(value),
            number(1000 * point.seconds),
            number(point.flops / 1e9),
            number(point.per_flop),
            number(point.peak / 2**20),
        ]
        for value, point in along.items()
    ]
    header = [label, 'ms', 'GFLOP', 'time per operation, of a product', 'MiB']
    return Table(f'Growth with {label} ({fixed})', header, rows)
