# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import torch

from mmmokd.structures import Views


def test_views_of_one_branch():
    images = [torch.zeros(1, 3, size, size) for size in (8, 8, 8, 4, 2)]
    views = Views(images[:3], images[3:], data_samples=['a'])
    found = views.choose([4, 2, 0])
    assert [id(view) for view in found.globals] == [id(images[2]), id(images[0])]
    assert [id(view) for view in found.locals] == [id(images[4])]
    assert found.data_samples == ['a']
