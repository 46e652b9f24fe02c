# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Compare training alone and together over finished quick starts of several seeds.

python tools/quickstart/summarize.py DIR DIR [...]
"""

__mmmokd_reads_arguments_first__ = True  # see mmmokd/__init__.py

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quickstart_runs import REPORT, RUNS, is_reported
from quickstart_tables import ACCURACIES, BRANCHES, PROBE_METRIC, describe_costs

from mmmokd.cli.run_tool import run_tool
from mmmokd.utils.errors import ConfigError
from mmmokd.utils.table import markdown_table, mean_and_error


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument(
        'folders',
        nargs='+',
        type=Path,
        metavar='DIR',
        help='output folder of tools/quickstart.sh, of images with labels; at least two',
    )
    args = parser.parse_args()
    if len(args.folders) < 2:
        parser.error('at least two folders are needed for a standard error')
    return args


def read_results(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Read the results of quick starts.

    Args:
        folders (Sequence[Path]): Their output folders.

    Returns:
        list[dict]: From their ``results.json``.

    Raises:
        ConfigError: If a folder has none, or none of accuracies, or they are of other epochs.
    """
    found = []
    for folder in folders:
        if not is_reported(folder):
            raise ConfigError(
                f'{folder} holds no finished quick start, or one of an earlier version: call '
                'tools/quickstart.sh with this folder as --out to finish it'
            )
        results = json.loads((folder / REPORT[1]).read_text(encoding='utf-8'))
        if results['raw_pixels'] is None:
            raise ConfigError(f'{folder} holds a quick start of images without labels')
        found.append(results)
    epochs = {
        tuple(epoch for epoch, _ in results[metric][name])
        for results in found
        for metric in ACCURACIES
        for name in results[metric]
    }
    if len(epochs) > 1:
        lengths = sorted({points[-1] for points in epochs})
        raise ConfigError(f'the quick starts were validated at other epochs: their ends {lengths}')
    return found


def ends_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Accuracies at the end, with the difference of each seed.

    Args:
        results (Sequence[dict]): From :func:`read_results`.

    Returns:
        str: The table, in Markdown.
    """
    rows = []
    for metric in (PROBE_METRIC, *ACCURACIES):
        for branch in BRANCHES.values():
            alone, together = (
                [_end(each[metric][f'{branch} {kind}']) for each in results]
                for kind in ('alone', 'together')
            )
            gains = [after - before for before, after in zip(alone, together, strict=True)]
            row = [
                f'{branch}, {metric}',
                *(f'{statistics.fmean(x):.2f}' for x in (alone, together)),
            ]
            rows.append([*row, ', '.join(f'{gain:.2f}' for gain in gains), mean_and_error(gains)])
    return markdown_table(['at the end', 'alone', 'together', 'differences', 'mean'], rows)


def _end(found: float | Sequence[Sequence[float]]) -> float:
    """The last value of a curve, or what has but one value."""
    return found if isinstance(found, float) else found[-1][1]


def curves_table(results: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Mean accuracies after each epoch, with the mean difference.

    Args:
        results (Sequence[dict]): From :func:`read_results`.
        metric (str): One of ``ACCURACIES``.

    Returns:
        str: The table, in Markdown.
    """
    rows = []
    for branch in BRANCHES.values():
        alone, together = (
            [[value for _, value in each[metric][f'{branch} {kind}']] for each in results]
            for kind in ('alone', 'together')
        )
        for kind, values in (('alone', alone), ('together', together)):
            means = [statistics.fmean(column) for column in zip(*values, strict=True)]
            rows.append([f'{branch} {kind}', *(f'{mean:.2f}' for mean in means)])
        gains = [
            [after - before for before, after in zip(*pair, strict=True)]
            for pair in zip(alone, together, strict=True)
        ]
        rows.append([f'{branch}, difference', *map(mean_and_error, zip(*gains, strict=True))])
    epochs = [f'epoch {epoch:g}' for epoch, _ in results[0][metric]['CNN alone']]
    return markdown_table([metric, *epochs], rows)


def mean_costs(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean seconds of training an epoch, by run.

    Args:
        results (Sequence[dict]): From :func:`read_results`.

    Returns:
        dict[str, float]: For :func:`~quickstart_tables.describe_costs`.
    """
    return {run: statistics.fmean(each['epoch_seconds'][run] for each in results) for run in RUNS}


def main() -> None:
    results = read_results(parse_args().folders)
    print(f'Means of {len(results)} quick starts, ± standard error of the difference\n')
    for table in (ends_table(results), *(curves_table(results, metric) for metric in ACCURACIES)):
        print(f'{table}\n')
    print(describe_costs(mean_costs(results)))


if __name__ == '__main__':
    run_tool(main)
