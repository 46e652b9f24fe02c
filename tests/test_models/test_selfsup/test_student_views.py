# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest

from mmmokd.models.selfsup.student_views import check_student_views, select_views
from mmmokd.structures import Views

BIG, SMALL = ['a', 'b'], ['c']


def test_which_views_students_see():
    assert select_views(Views(BIG, []), 'first', read=2) == Views(['a'], [])
    assert select_views(Views(BIG[:1], []), 'first') == Views(['a'], [])
    assert select_views(Views(BIG, []), 'globals') == Views(BIG, [])
    assert select_views(Views(BIG, SMALL, [1]), 'all') == Views(BIG, SMALL, [1])


@pytest.mark.parametrize(
    ('views', 'which', 'message'),
    [
        (Views(BIG, []), 'first', "'first' reads 1 view, but the pipeline makes 2 global and 0"),
        (Views(BIG[:1], SMALL), 'first', "'first' reads 1 view, .* 1 global and 1 local"),
        (Views(BIG, SMALL), 'globals', "'globals' reads 2 views, .* set student_views='all'"),
    ],
)
def test_views_that_nothing_reads(views, which, message):
    with pytest.raises(ValueError, match=message):
        select_views(views, which)


def test_a_choice_that_does_not_exist():
    check_student_views('X', 'all')
    with pytest.raises(ValueError, match="student_views of X must be one of 'first', .* got None"):
        check_student_views('X', None)
