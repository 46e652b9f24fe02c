# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Views of a batch that a branch sees, and their passes."""

from collections.abc import Sequence

from torch import Tensor

from mmmokd.utils.errors import ConfigError


def check_views_seen(views: Sequence[int] | None) -> tuple[int, ...] | None:
    """Refuse what are not numbers of different views.

    Args:
        views (Sequence[int], optional): See :class:`Branch`.

    Returns:
        tuple[int, ...], optional: The same.

    Raises:
        ConfigError: If there is none, one twice, or one is not a whole number >= 0.
    """
    if views is None:
        return None
    is_list = isinstance(views, list | tuple) and len(views) > 0
    if (
        not is_list
        or not all(type(i) is int and i >= 0 for i in views)
        or len({*views}) < len(views)
    ):
        raise ConfigError(
            'views of a branch must be a list of the numbers of different views, counted from 0, '
            f'but got {views!r}'
        )
    return tuple(views)


def group_by_size(global_views: list[Tensor], local_views: list[Tensor]) -> list[list[Tensor]]:
    """Views that go through a model in one pass: the global ones, then neighbors of one size.

    Args:
        global_views (list[Tensor]): Views of one size, each (B, 3, H, W).
        local_views (list[Tensor]): Further views.

    Returns:
        list[list[Tensor]]: The views in their order, grouped.
    """
    groups = [list(global_views)]
    for i, view in enumerate(local_views):
        if i and view.shape == groups[-1][-1].shape:
            groups[-1].append(view)
        else:
            groups.append([view])
    return groups
