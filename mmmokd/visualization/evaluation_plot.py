# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from pathlib import Path

from mmmokd.utils.atomic import atomic_write


def plot_evaluation(
    path: str | Path,
    metrics: dict[str, dict[str, float]],
    sweeps: dict[str, dict[float, float]],
    chosen: dict[str, float],
) -> None:
    """Draw what frozen features are worth: a bar for each network and metric, and the sweep.

    Args:
        path (str | Path): PNG file to write.
        metrics (dict[str, dict[str, float]]): Top-1 in percent by metric and network.
        sweeps (dict[str, dict[float, float]]): Top-1 of the linear probe on the held-out share of
            the bank, in percent, by network and learning rate; empty for no second plot.
        chosen (dict[str, float]): The learning rate chosen for each network of ``sweeps``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    num_bars = sum(map(len, metrics.values()))
    widths = [max(5.0, 0.35 * num_bars), *([5.0] if sweeps else [])]  # inches
    figure = Figure(figsize=(sum(widths), 4.2), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0]
    _draw_bars(axes[0], metrics)
    if sweeps:
        _draw_sweeps(axes[1], sweeps, chosen)
    for axis in axes:
        axis.grid(axis='y', alpha=0.3)
        axis.set_axisbelow(True)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as part:
        figure.savefig(part, dpi=110, format='png')


def _draw_bars(axis, metrics: dict[str, dict[str, float]]) -> None:
    networks = list(next(iter(metrics.values())))
    width = 0.8 / len(metrics)
    for i, (metric, values) in enumerate(metrics.items()):
        places = [n + (i - (len(metrics) - 1) / 2) * width for n in range(len(networks))]
        bars = axis.bar(places, [values[n] for n in networks], width * 0.92, label=metric)
        axis.bar_label(bars, fmt='%.1f', fontsize=7)
    axis.set_xticks(range(len(networks)), networks)
    top = max(value for values in metrics.values() for value in values.values())
    axis.set(ylabel='top-1, %', title='Frozen features', ylim=(0, min(108, 1.25 * top + 1)))
    axis.legend(fontsize=7, ncols=len(metrics), loc='upper center')


def _draw_sweeps(axis, sweeps: dict[str, dict[float, float]], chosen: dict[str, float]) -> None:
    for network, curve in sweeps.items():
        (line,) = axis.plot(*zip(*sorted(curve.items()), strict=True), marker='o', ms=3)
        lr = chosen[network]
        line.set_label(f'{network}, chosen: {lr:g}')
        axis.plot(lr, curve[lr], marker='o', ms=9, mfc='none', color=line.get_color())
    axis.set_xscale('log')
    axis.set(
        xlabel='learning rate of the linear probe',
        ylabel='top-1, %',
        title="Held-out share of the bank's labels",
    )
    axis.legend(fontsize=7)
