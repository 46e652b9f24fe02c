# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from unittest.mock import patch

import cv2
import pytest
from matplotlib.figure import Figure

from mmmokd.visualization import plot_evaluation

MEASURES = {
    '20-NN': {'cnn.teacher': 70.0, 'vit.teacher': 73.5},
    'linear': {'cnn.teacher': 75.0, 'vit.teacher': 100.0},
}
SWEEPS = {'cnn.teacher': {0.1: 74.0, 0.01: 70.0}, 'vit.teacher': {0.1: 60.0, 0.01: 99.0}}
CHOSEN = {'cnn.teacher': 0.1, 'vit.teacher': 0.01}


def draw(path, *args):
    """The figure that was saved."""
    figures = []
    save = Figure.savefig

    def keep(figure, *args, **kwargs):
        figures.append(figure)
        save(figure, *args, **kwargs)

    with patch.object(Figure, 'savefig', keep):
        plot_evaluation(path, *args)
    return figures[0]


def test_bars_and_sweep(tmp_path):
    file = tmp_path / 'new' / 'results.part'  # PNG whatever it is called
    bars, sweep = draw(file, MEASURES, SWEEPS, CHOSEN).axes
    assert cv2.imread(str(file)).shape[1] > 900
    assert [bar.get_height() for bar in bars.patches] == [70, 73.5, 75, 100]
    assert [text.get_text() for text in bars.get_xticklabels()] == ['cnn.teacher', 'vit.teacher']
    assert bars.get_ylim()[1] > 104  # room for the number on a bar of 100
    curves = [line for line in sweep.lines if len(line.get_xdata()) > 1]
    assert [list(curve.get_xdata()) for curve in curves] == [[0.01, 0.1]] * 2
    assert list(curves[1].get_ydata()) == [99.0, 60.0]
    rings = [line for line in sweep.lines if len(line.get_xdata()) == 1]
    assert [(r.get_xdata()[0], r.get_ydata()[0]) for r in rings] == [(0.1, 74.0), (0.01, 99.0)]
    assert sweep.get_xscale() == 'log'


@pytest.mark.parametrize('networks', [1, 8])
def test_bars_alone(tmp_path, networks):
    values = {f'branch{i}.teacher': 0.0 for i in range(networks)}
    figure = draw(tmp_path / 'plot.png', {'20-NN': values}, {}, {})
    assert len(figure.axes) == 1 and len(figure.axes[0].patches) == networks
    assert Path(tmp_path / 'plot.png').is_file()
