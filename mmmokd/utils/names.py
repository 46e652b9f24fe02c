# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0


def printable(name: str) -> str:
    """A file's name as a log can hold it.

    Args:
        name (str): Any name; on Linux it may hold line breaks and bytes that are no text.

    Returns:
        str: The name, such characters written as ``'\\n'`` or ``'\\udcff'``.
    """
    if name.isprintable():
        return name
    return ''.join(
        letter if letter.isprintable() else letter.encode('unicode_escape').decode()
        for letter in name
    )
