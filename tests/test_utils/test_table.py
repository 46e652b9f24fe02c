# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest

from mmmokd.utils.table import markdown_table, mean_and_error


def test_columns_are_of_even_width():
    assert markdown_table(('a', 'of two'), [('1', '2'), ('long', '')]).splitlines() == [
        '| a    | of two |',
        '| ---- | ------ |',
        '| 1    | 2      |',
        '| long |        |',
    ]


@pytest.mark.parametrize(
    ('values', 'text'),
    [
        ([80.0, 82.0, 84.0], '82.00 ± 1.15'),  # standard deviation 2, of three
        ([1.0], '1.00'),
        ([1.0, None], ''),
        ([], ''),
    ],
)
def test_mean_and_error(values, text):
    assert mean_and_error(values) == text


def test_the_sign_is_of_the_mean():
    assert mean_and_error([1.0, 2.0], '{:+.1f}'.format) == '+1.5 ± 0.5'
