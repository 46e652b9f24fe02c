# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np

from mmmokd.utils.atomic import atomic_write

SIDE = 3.0  # inches of a receptive field


def plot_locality(
    path: str | Path,
    distances: dict[str, dict[str, list[list[float]]]],
    fields: dict[str, dict[str, np.ndarray]],
) -> None:
    """Draw how far attention reaches and which pixels a feature depends on.

    Args:
        path (str | Path): PNG file to write.
        distances (dict[str, dict[str, list[list[float]]]]): Attention distance in pixels by network,
            checkpoint, layer and head, of the networks that have attention.
        fields (dict[str, dict[str, np.ndarray]]): Effective receptive field, shape (H, W), by network
            and checkpoint. They are drawn as the fourth root of their share of the peak, for their
            edges are faint.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = list(dict.fromkeys(name for found in fields.values() for name in found))
    has_distances = [1] if distances else []
    size = (SIDE * (len(columns) + 1.6 * len(has_distances)), SIDE * len(fields))
    figure = Figure(figsize=size, layout='constrained')
    FigureCanvasAgg(figure)
    ratios = [1] * len(columns) + [1.6] * len(has_distances)
    grid = figure.subplots(len(fields), len(ratios), squeeze=False, width_ratios=ratios)
    for axes, (network, found) in zip(grid, fields.items(), strict=True):
        for axis, name in zip(axes, columns, strict=False):
            axis.set_axis_off()
            if name in found:
                share = found[name] / found[name].max()
                axis.imshow(share**0.25, cmap='magma', vmin=0, vmax=1)
                axis.set_title(f'{network}\n{name}', fontsize=8)
        if distances:
            _draw_distances(axes[-1], network, distances.get(network, {}))
    figure.suptitle('Effective receptive fields' + ' and attention distance' * bool(distances))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as part:
        figure.savefig(part, dpi=110, format='png')


def _draw_distances(axis, network: str, found: dict[str, list[list[float]]]) -> None:
    """A line through the layers' means, and a dot for each head."""
    if not any(found.values()):
        axis.set_axis_off()
        return
    for name, layers in found.items():
        places = range(1, len(layers) + 1)
        (line,) = axis.plot(places, [sum(heads) / len(heads) for heads in layers], label=name)
        dots = [(x, y) for x, heads in zip(places, layers, strict=True) for y in heads]
        axis.scatter(*zip(*dots, strict=True), s=8, alpha=0.5, color=line.get_color())
    axis.xaxis.get_major_locator().set_params(integer=True)
    top = max(y for layers in found.values() for heads in layers for y in heads)
    axis.set(xlabel='layer', ylabel='attention distance, px', ylim=(0, 1.2 * top or 1))
    axis.set_title(network, fontsize=8)
    axis.grid(axis='y', alpha=0.3)
    axis.legend(fontsize=7)
