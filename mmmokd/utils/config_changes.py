# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator
from typing import Any

ABSENT = object()
SHORT = 60  # characters of a value


def config_changes(old: Any, new: Any, key: str = '') -> Iterator[tuple[str, Any, Any]]:
    """Find where two configs differ.

    Args:
        old (Any): A config, or a value of one.
        new (Any): Another.
        key (str): Where they stand. Defaults to '', the top.

    Yields:
        tuple[str, Any, Any]: A dotted key, and the old and the new value, ``ABSENT`` where there is
        none. Lists of the same length are compared value by value.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = [(name, old.get(name, ABSENT), new.get(name, ABSENT)) for name in {**old, **new}]
    elif isinstance(old, list | tuple) and isinstance(new, list | tuple) and len(old) == len(new):
        pairs = [(place, *pair) for place, pair in enumerate(zip(old, new, strict=True))]
    else:
        # By text where one value has no truth: nan, and arrays, which refuse to be compared.
        if old is not new and repr(old) != repr(new):
            yield key, old, new
        return
    for name, before, now in pairs:
        yield from config_changes(before, now, f'{key}.{name}' if key else str(name))


def describe_changes(changes: list[tuple[str, Any, Any]], limit: int) -> list[str]:
    """Changes in words, one a line.

    Args:
        changes (list[tuple[str, Any, Any]]): See :func:`config_changes`.
        limit (int): Most lines.

    Returns:
        list[str]: ``KEY: OLD -> NEW``; of more than ``limit`` changes the last line tells how many
        are left out.
    """
    shown = changes if len(changes) <= limit else changes[: limit - 1]
    lines = [f'{key}: {_short(old)} -> {_short(new)}' for key, old, new in shown]
    if len(shown) < len(changes):
        lines.append(f'... and {len(changes) - len(shown)} more')
    return lines


def _short(value: Any) -> str:
    text = '(none)' if value is ABSENT else repr(value)
    return text if len(text) <= SHORT else f'{text[: SHORT - 4]} ...'
