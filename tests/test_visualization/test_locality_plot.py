# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from unittest.mock import patch

import cv2
import numpy as np
from matplotlib.figure import Figure

from mmmokd.visualization import plot_locality


def draw(path, *args):
    """The figure that was saved."""
    figures = []
    save = Figure.savefig

    def keep(figure, *args, **kwargs):
        figures.append(figure)
        save(figure, *args, **kwargs)

    with patch.object(Figure, 'savefig', keep):
        plot_locality(path, *args)
    return figures[0]


def test_fields_and_distances(tmp_path):
    field = np.outer([1.0, 16, 1], [1, 1, 1])
    fields = {'cnn.teacher': {'pair': field}, 'vit.teacher': {'pair': field, 'alone': field}}
    distances = {'vit.teacher': {'pair': [[10.0, 20.0], [30.0, 50.0]], 'alone': [[5.0], [6.0]]}}
    file = tmp_path / 'new' / 'locality.part'  # PNG whatever it is called
    cnn_pair, cnn_alone, empty, vit_pair, vit_alone, axis = draw(file, distances, fields).axes
    assert cv2.imread(str(file)).shape[1] > 900
    for axes in (cnn_pair, vit_pair, vit_alone):
        np.testing.assert_allclose(axes.images[0].get_array()[:, 0], [0.5, 1, 0.5])
    assert vit_alone.get_title() == 'vit.teacher\nalone'
    assert not cnn_alone.images and not empty.lines
    assert [list(line.get_ydata()) for line in axis.lines] == [[15, 40], [5, 6]]
    assert len(axis.collections[0].get_offsets()) == 4 and axis.get_ylim() == (0, 60)


def test_cnns_have_no_distances(tmp_path):
    axes = draw(tmp_path / 'a.png', {}, {'cnn.teacher': {'pair': np.ones((4, 4))}}).axes
    assert len(axes) == 1
