# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import math

import pytest

from mmmokd.models.branches.adapters import infer_grid


@pytest.mark.parametrize('patch', [4, 7, 16])
@pytest.mark.parametrize('rounding', [math.floor, math.ceil])
def test_grids_of_images_of_any_shape(patch, rounding):
    for height in range(16, 130, 6):
        for width in range(16, 130, 10):
            grid = rounding(height / patch), rounding(width / patch)
            assert infer_grid(grid[0] * grid[1], (height, width), 'ViT', 'mend it') == grid


@pytest.mark.parametrize('side', [2, 3, 4, 6, 14])
@pytest.mark.parametrize('uncounted', [1, 2, 4])
def test_token_that_the_backbone_does_not_count(side, uncounted):
    """Also on small grids, where 9 + 1 tokens would make 2 x 5."""
    with pytest.raises(
        ValueError,
        match=f'ViT gave {side**2 + uncounted} tokens .* form no grid of that shape: mend it$',
    ):
        infer_grid(side**2 + uncounted, (16 * side, 16 * side), 'ViT', 'mend it')


@pytest.mark.parametrize('num_tokens', [0, -3])
def test_no_tokens(num_tokens):
    with pytest.raises(ValueError, match=f'gave {num_tokens} tokens'):
        infer_grid(num_tokens, (32, 32), 'ViT', 'mend it')
