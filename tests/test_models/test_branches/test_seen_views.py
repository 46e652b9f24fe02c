# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from mokd_testing import branch_cfg, build_mokd

from mmmokd.models.branches.seen_views import group_by_size


@pytest.mark.parametrize('views', [[], [0, 0], [-1], 3, ['a']])
def test_views_that_cannot_be(views):
    with pytest.raises(ValueError, match='views of a branch must be a list of the numbers'):
        build_mokd(dict(vit=branch_cfg('vit', views=views)))


@pytest.mark.parametrize(
    ('global_sizes', 'local_sizes', 'groups'),
    [
        ((32, 32), (), [(32, 32)]),
        ((32, 32), (24, 24, 24), [(32, 32), (24, 24, 24)]),
        ((32, 32), (32, 24, 24), [(32, 32), (32,), (24, 24)]),
        ((32,), (24, 16, 24), [(32,), (24,), (16,), (24,)]),
    ],
)
def test_views_of_one_pass(global_sizes, local_sizes, groups):
    global_views, local_views = (
        [torch.rand(1, 3, size, size) for size in sizes] for sizes in (global_sizes, local_sizes)
    )
    found = group_by_size(global_views, local_views)
    assert [tuple(view.shape[-1] for view in group) for group in found] == groups
    flat = [view for group in found for view in group]
    assert all(a is b for a, b in zip(flat, global_views + local_views, strict=True))
