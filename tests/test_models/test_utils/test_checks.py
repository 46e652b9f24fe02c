# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from mmmokd.models.utils import check_counts, check_number


def test_what_is_right():
    check_counts('X', a=1, b=np.int64(3))
    check_counts('X', least=0, a=0)
    check_number('X', 'a', 0.5)
    check_number('X', 'a', 0, zero=True)


@pytest.mark.parametrize('value', [0, -1, 1.5, '2', None, True, [3]])
def test_counts_that_are_none(value):
    with pytest.raises(
        ValueError, match='^width of X must be a whole number of at least 1, but got'
    ):
        check_counts('X', height=1, width=value)


@pytest.mark.parametrize('value', [0, -0.1, float('nan'), '2', None, True])
def test_numbers_that_are_none(value):
    with pytest.raises(ValueError, match='^share of X must be a positive number, but got'):
        check_number('X', 'share', value)
    if value != 0 or value is True:
        with pytest.raises(ValueError, match='^share of X must be a number >= 0, but got'):
            check_number('X', 'share', value, zero=True)
