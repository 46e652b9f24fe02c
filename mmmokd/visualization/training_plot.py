# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmmokd.utils.atomic import atomic_write
from mmmokd.utils.errors import MissingFileError


class RunScalars(NamedTuple):
    """Values that a run wrote to its log.

    Attributes:
        train (dict[str, list[tuple[float, float]]]): (epoch, value) pairs by name.
        val (dict[str, list[tuple[float, float]]]): (epoch, value) pairs by name; epoch 0 is
            before training.
    """

    train: dict[str, list[tuple[float, float]]]
    val: dict[str, list[tuple[float, float]]]


def read_scalars(work_dir: str | Path) -> RunScalars:
    """Read the scalars that mmengine's local backend wrote, over all starts of a run.

    Args:
        work_dir (str | Path): The run's work directory.

    Returns:
        RunScalars: Values over the epochs of an epoch-based run.

    Raises:
        FileNotFoundError: If there is no ``*/vis_data/scalars.json`` below it.
    """
    files = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    if not files:
        raise MissingFileError(
            f'no */vis_data/scalars.json in {work_dir}: no run wrote its log there'
        )
    train: dict[str, dict[float, float]] = {}
    val: dict[str, dict[float, float]] = {}
    last_of_epoch: dict[int, int] = {}
    for line in (line for file in files for line in file.read_text().splitlines() if line):
        entry = json.loads(line)
        is_train = 'epoch' in entry and 'iter' in entry
        position = entry['iter'] if is_train else entry['step']
        if is_train:
            last_of_epoch[entry['epoch']] = entry['iter']
        for name, value in entry.items():
            if name not in ('epoch', 'iter', 'step', 'time', 'data_time', 'memory'):
                # A resumed run writes some positions again; the last one counts.
                (train if is_train else val).setdefault(name, {})[position] = value
    iters_per_epoch = _iters_per_epoch(last_of_epoch)
    return RunScalars(
        {
            name: [(x / iters_per_epoch, y) for x, y in sorted(v.items())]
            for name, v in train.items()
        },
        {name: sorted(v.items()) for name, v in val.items()},
    )


def _iters_per_epoch(last_of_epoch: dict[int, int]) -> float:
    """From the last iteration that was logged of each epoch, which may not be its last."""
    # Of the newest epoch more may be missing than of the others: the run may have been cut off.
    epochs = sorted(last_of_epoch)[:-1] if len(last_of_epoch) > 2 else sorted(last_of_epoch)
    if not epochs:
        return 1.0
    first, last = epochs[0], epochs[-1]
    if first == last:
        return last_of_epoch[last] / last
    return (last_of_epoch[last] - last_of_epoch[first]) / (last - first)


def plot_training(
    path: str | Path,
    losses: dict[str, list[tuple[float, float]]],
    metrics: dict[str, dict[str, list[tuple[float, float]]]],
    baselines: dict[str, float],
    views: Sequence[Sequence[np.ndarray]],
) -> None:
    """Draw a run: its loss terms, metrics over time, and the views that it was shown.

    Args:
        path (str | Path): Image file to write.
        losses (dict[str, list[tuple[float, float]]]): (epoch, value) pairs by loss term.
        metrics (dict[str, dict[str, list[tuple[float, float]]]]): (epoch, value) pairs by curve,
            by what is measured, with the unit.
        baselines (dict[str, float]): Values to draw as horizontal lines beside every metric.
        views (Sequence[Sequence[np.ndarray]]): For each of some images its views, RGB, uint8.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7.5), layout='constrained')
    FigureCanvasAgg(figure)
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.25, 1))
    axes = top.subplots(1, 1 + len(metrics))
    left, rest = axes[0], axes[1:]
    for name, points in losses.items():
        left.plot(*zip(*points, strict=True), label=name)
    left.set(xlabel='epoch', ylabel='loss term', title='Loss terms')
    if losses:
        left.legend(fontsize=7)
    for axis, (metric, curves) in zip(rest, metrics.items(), strict=True):
        for name, points in curves.items():
            axis.plot(*zip(*points, strict=True), marker='o', markersize=3, label=name)
        for name, value in baselines.items():
            axis.axhline(value, color='gray', linestyle=':', label=name)
        axis.set(xlabel='epoch', title=metric)
        if curves or baselines:
            axis.legend(fontsize=7)
    for axis in axes:
        axis.title.set_fontsize(10)
        axis.grid(alpha=0.3)
    _draw_views(bottom, views)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as part:
        figure.savefig(part, dpi=110, format=Path(path).suffix[1:] or 'png')


def _draw_views(figure, views: Sequence[Sequence[np.ndarray]]) -> None:
    figure.suptitle('What the models saw: an image per row, a view per column', fontsize=10)
    axes = figure.subplots(len(views), len(views[0]), squeeze=False)
    side = max(view.shape[0] for view in views[0])
    for row, row_views in zip(axes, views, strict=True):
        for axis, view in zip(row, row_views, strict=True):
            axis.imshow(view, interpolation='nearest')
            # One scale for all: a local view is drawn as small as the models get it.
            margin = (side - view.shape[0]) / 2
            axis.set_xlim(-0.5 - margin, view.shape[1] - 0.5 + margin)
            axis.set_ylim(view.shape[0] - 0.5 + margin, -0.5 - margin)
            axis.axis('off')
