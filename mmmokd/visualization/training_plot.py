# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmmokd.utils.atomic import atomic_write
from mmmokd.utils.errors import MissingFileError

LINE_STYLES = ('--', '-', '-.', ':')


class RunScalars(NamedTuple):
    """Values that a run wrote to its log.

    Attributes:
        train (dict[str, list[tuple[float, float]]]): (epoch, value) pairs by name.
        val (dict[str, list[tuple[float, float]]]): (epoch, value) pairs by name; epoch 0 is
            before training.
        epoch_seconds (float, optional): Seconds of training that an epoch takes at the fastest pace
            that was logged, without validation. What else a machine does slows some iterations
            down and speeds none up. None if no time was logged.
    """

    train: dict[str, list[tuple[float, float]]]
    val: dict[str, list[tuple[float, float]]]
    epoch_seconds: float | None = None


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
    paces: list[float] = []
    for line in (line for file in files for line in file.read_text().splitlines() if line):
        entry = json.loads(line)
        is_train = 'epoch' in entry and 'iter' in entry
        position = entry['iter'] if is_train else entry['step']
        if is_train:
            last_of_epoch[entry['epoch']] = entry['iter']
            paces += [entry['time']] if 'time' in entry else []
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
        min(paces) * iters_per_epoch if paces else None,
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
    costs: dict[str, float],
    cost_label: str,
    baselines: dict[str, float],
    views: Sequence[Sequence[np.ndarray]],
) -> None:
    """Draw a run: its loss terms, metrics over epochs and over their cost, and the views it saw.

    Curves whose names differ in nothing but the last word have one color, and a line style by that
    word: dashed the first that is met, solid the second.

    Args:
        path (str | Path): Image file to write.
        losses (dict[str, list[tuple[float, float]]]): (epoch, value) pairs by loss term.
        metrics (dict[str, dict[str, list[tuple[float, float]]]]): (epoch, value) pairs by curve,
            by what is measured, with the unit; at least one.
        costs (dict[str, float]): What an epoch costs, in seconds for instance, by curve.
        cost_label (str): What the cost is, with the unit.
        baselines (dict[str, float]): Values to draw as horizontal lines beside every metric.
        views (Sequence[Sequence[np.ndarray]]): For each of some images its views, RGB, uint8.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * (1 + len(metrics)), 8.4), layout='constrained')
    FigureCanvasAgg(figure)
    left, right = figure.subfigures(1, 2, width_ratios=(1, len(metrics)))
    top, bottom = left.subfigures(2, 1)
    axis = top.subplots()
    for name, points in losses.items():
        axis.plot(*zip(*points, strict=True), label=name)
    axis.set(xlabel='epoch')
    axis.set_title('Loss terms', fontsize=10)
    axis.grid(alpha=0.3)
    if losses:
        axis.legend(fontsize=8)
    _draw_views(bottom, views)
    columns = right.subplots(2, len(metrics), sharey='col', squeeze=False).T
    for axes, (metric, curves) in zip(columns, metrics.items(), strict=True):
        _draw_curves(axes[0], curves, dict.fromkeys(curves, 1), baselines)
        _draw_curves(axes[1], curves, costs, baselines)
        axes[0].set(xlabel='epoch')
        axes[1].set(xlabel=cost_label)
        axes[0].set_title(metric, fontsize=10)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as part:
        figure.savefig(part, dpi=100, format=Path(path).suffix[1:] or 'png')


def _draw_curves(
    axis,
    curves: dict[str, list[tuple[float, float]]],
    costs: dict[str, float],
    baselines: dict[str, float],
) -> None:
    """Draw the curves of one metric over the epochs, each times its cost."""
    words = [name.rpartition(' ') for name in curves]
    models = [*dict.fromkeys(model for model, _, _ in words)]
    kinds = [*dict.fromkeys(kind for _, _, kind in words)]
    for (name, points), (model, _, kind) in zip(curves.items(), words, strict=True):
        axis.plot(
            [epoch * costs[name] for epoch, _ in points],
            [value for _, value in points],
            color=f'C{models.index(model)}',
            linestyle=LINE_STYLES[kinds.index(kind) % len(LINE_STYLES)],
            marker='o',
            markersize=4,
            label=name,
        )
    for name, value in baselines.items():
        axis.axhline(value, color='gray', linestyle=':', label=name)
    axis.grid(alpha=0.3)
    if curves or baselines:
        axis.legend(fontsize=8)


def _draw_views(figure, views: Sequence[Sequence[np.ndarray]]) -> None:
    figure.suptitle('Views: an image in each row', fontsize=10)
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
