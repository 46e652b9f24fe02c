# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Choice of the views that students see, for algorithms whose paper has one view, or two."""

from typing import Any

from mmmokd.structures import Views
from mmmokd.utils.errors import ConfigError

STUDENT_VIEWS = ('first', 'globals', 'all')


def check_student_views(owner: str, value: Any) -> None:
    """Refuse what is not a choice of views.

    Args:
        owner (str): Whose argument it is, for the message.
        value (Any): Its value.

    Raises:
        ConfigError: If it is not one of ``STUDENT_VIEWS``.
    """
    if value not in STUDENT_VIEWS:
        raise ConfigError(
            f'student_views of {owner} must be one of {", ".join(map(repr, STUDENT_VIEWS))}, but '
            f'got {value!r}'
        )


def select_views(views: Views, which: str, read: int = 1) -> Views:
    """The views that students see.

    Args:
        views (Views): All views.
        which (str): ``'first'``, ``'globals'`` or ``'all'``.
        read (int): How many global views anything reads where students see the first alone. Defaults
            to 1.

    Returns:
        Views: Those of them.

    Raises:
        ConfigError: If a view is made that nothing would read.
    """
    count = read if which == 'first' else len(views.globals)
    unread = len(views.globals) - count + (len(views.locals) if which != 'all' else 0)
    if unread:
        raise ConfigError(
            f'student_views={which!r} reads {count} view{"s" * (count > 1)}, but the pipeline makes '
            f'{len(views.globals)} global and {len(views.locals)} local ones: let it make no others '
            "(groups of mmmokd.MultiCrop; num_global_views of the model), or set student_views='all'"
        )
    return views._replace(globals=views.globals[:1]) if which == 'first' else views
