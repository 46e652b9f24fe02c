# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest

from mmmokd.transfer.branch_info import read_pixels
from mmmokd.weights import WeightFile


@pytest.mark.parametrize(
    ('of_loader', 'of_preprocessor', 'rgb'),
    [('', True, True), (', to_rgb=True', False, True), ('', False, False)],
)
def test_order_of_the_channels(of_loader, of_preprocessor, rgb):
    """RGB, where the pipeline gives it or the preprocessor makes it."""
    text = (
        f"train_dataloader = dict(dataset=dict(pipeline=[dict(type='mmmokd.LoadImage'{of_loader})]))\n"
        f'data_preprocessor = dict(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], to_rgb={of_preprocessor})'
    )
    pixels = read_pixels(WeightFile('a.pth', {}, dict(cfg=text)))
    assert pixels == ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0], rgb)
