# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import statistics
from collections.abc import Callable, Sequence


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, with columns of even width, so that it is read as plain text too.

    Args:
        header (Sequence[str]): Names of the columns.
        rows (Sequence[Sequence[str]]): Cells of each row.

    Returns:
        str: Lines without a last line break.
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ['-' * width for width in widths], *rows]
    return '\n'.join(
        '| ' + ' | '.join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + ' |'
        for line in lines
    )


def mean_and_error(
    values: Sequence[float | None], write: Callable[[float], str] = '{:.2f}'.format
) -> str:
    """Write a mean and its standard error.

    Args:
        values (Sequence[float | None]): One for each seed.
        write (Callable): Makes a text of a number. Defaults to two decimals.

    Returns:
        str: ``MEAN ± ERROR``, ``MEAN`` of one value, and nothing if any was not measured.
    """
    if not values or None in values:
        return ''
    mean = write(statistics.fmean(values))
    if len(values) == 1:
        return mean
    error = write(statistics.stdev(values) / len(values) ** 0.5)
    return f'{mean} ± {error.removeprefix("+")}'
