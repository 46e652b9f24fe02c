# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The table, the file and the plot of all runs."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from speed.result import number

from mmmokd.utils.atomic import atomic_write
from mmmokd.utils.table import markdown_table, mean_and_error

TABLE, RESULTS, PLOT = 'results.md', 'results.json', 'results.png'
HEADER = (
    'pair', 'method', 'branch', 'k-NN, %', 'linear, %', 'effective rank', 'ms/step', 'images/s',
    'memory, MiB', 'training, s', 'teacher, s', 'seeds',
)  # fmt: skip
METRICS = ('knn_top1', 'linear_top1', 'effective_rank')


def group(records: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Group the records of all seeds.

    Args:
        records (Iterable[dict]): Of any runs.

    Returns:
        dict[tuple[str, str], list[dict]]: By pair and method.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for record in records:
        groups.setdefault((record['pair'], record['method']), []).append(record)
    return groups


def write_table(records: Iterable[Mapping[str, Any]]) -> str:
    """Write a row for each network of each method on each pair.

    Args:
        records (Iterable[dict]): Of all runs that are done.

    Returns:
        str: In Markdown; costs, which are those of the whole run, stand in its first row.
    """
    rows = []
    for (pair, method), runs in group(records).items():
        for i, network in enumerate(runs[0]['results']):
            found = [run['results'].get(network, {}) for run in runs]
            values = [mean_and_error([each.get(key) for each in found]) for key in METRICS]
            name = f'{network} (frozen)' if network in runs[0]['frozen'] else network
            cost = _costs(runs) if i == 0 else [''] * 5
            rows.append([pair, method, name, *values, *cost, str(len(runs))])
    return markdown_table(HEADER, rows)


def _costs(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    columns = [
        [1000 * run['seconds_per_step'] for run in runs],
        [run['images_per_second'] for run in runs],
        [run['memory_mib'] for run in runs],
        [run['seconds'] for run in runs],
        [teacher_seconds(run) for run in runs],
    ]
    cells = [mean_and_error(column, number) for column in columns]
    return [*cells[:-1], cells[-1] if any(columns[-1]) else '']


def write_differences(records: Iterable[Mapping[str, Any]], against: str) -> str:
    """Write by how much methods are better than one of them, seed by seed.

    Args:
        records (Iterable[dict]): Of all runs that are done.
        against (str): The method that others are compared with.

    Returns:
        str: A table in Markdown; '' if there is nothing to compare.
    """
    groups, rows = group(records), []
    for (pair, method), runs in groups.items():
        base = {run['seed']: run for run in groups.get((pair, against), ())}
        runs = [run for run in runs if run['seed'] in base and method != against]
        for network in runs[0]['results'] if runs else ():
            cells = [
                mean_and_error(_differences(runs, base, network, key), '{:+.2f}'.format)
                for key in METRICS[:2]
            ]
            if network not in runs[0]['frozen'] and any(cells):
                rows.append([pair, method, network, *cells, str(len(runs))])
    if not rows:
        return ''
    title = f'Difference to {against} with the same seed, in points:'
    return f'{title}\n\n{markdown_table((*HEADER[:3], "k-NN", "linear", "seeds"), rows)}'


def _differences(
    runs: Sequence[Mapping], base: Mapping[int, Mapping], network: str, key: str
) -> list[float | None]:
    pairs = [
        [run['results'].get(network, {}).get(key) for run in (each, base[each['seed']])]
        for each in runs
    ]
    return [None if None in pair else pair[0] - pair[1] for pair in pairs]


def teacher_seconds(record: Mapping[str, Any]) -> float:
    """Seconds of training that went into a run's teachers beforehand.

    Args:
        record (dict): Of the run.

    Returns:
        float: 0 without a teacher.
    """
    return sum(teacher['seconds'] for teacher in record['teachers'])


def differing_views(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Find methods that did not see the images and views that others saw with the same seed.

    Args:
        records (Iterable[dict]): Of any runs.

    Returns:
        list[str]: A line for each pair and seed with different views.
    """
    marks: dict[tuple[str, int], dict[str, list[str]]] = {}
    for record in records:
        place = marks.setdefault((record['pair'], record['seed']), {})
        place.setdefault(record['views'], []).append(record['method'])
    return [
        f'{pair}, seed {seed}: {" / ".join(", ".join(methods) for methods in place.values())} '
        'saw different views'
        for (pair, seed), place in marks.items()
        if len(place) > 1
    ]


def write_summary(
    out: Path, records: Mapping[str, Mapping], failed: Mapping[str, str], against: str
) -> str:
    """Write the table and the file of all runs.

    Args:
        out (Path): Folder to write to.
        records (dict[str, dict]): Of the runs that are done, by case.
        failed (dict[str, str]): Why others are not, by case.
        against (str): The method that others are compared with.

    Returns:
        str: The table, and what is to be known with it.
    """
    parts = [write_table(records.values())] if records else []
    if differences := write_differences(records.values(), against):
        parts.append(differences)
    different = differing_views(records.values())
    if records:
        parts.append('\n'.join(different) or 'All methods saw the same views of the same images.')
    parts += [f'failed: {name}: {reason}' for name, reason in failed.items()]
    text = '\n\n'.join(parts)
    lines = ',\n'.join(json.dumps(record) for record in records.values())
    content = f'{{"records": [\n{lines}\n],\n"failed": {json.dumps(failed)}}}'
    for name, each in ((TABLE, text), (RESULTS, content)):
        with atomic_write(out / name) as part:
            part.write_text(f'{each}\n', encoding='utf-8')
    return text


def plot(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Draw accuracy over the seconds of training, a panel for each branch of each pair.

    Args:
        path (Path): PNG file to write.
        records (Iterable[dict]): Of all runs that are done; a line begins after the seconds that
            its teacher took.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: dict[tuple[str, str], dict[str, list]] = {}
    for (pair, method), runs in group(records).items():
        for branch in runs[0]['curves']:
            if branch not in runs[0]['frozen']:
                lines = panels.setdefault((pair, branch), {})
                lines[method] = _mean_curve(runs, branch)
    if not panels:
        return
    figure = Figure(figsize=(6.0 * len(panels), 4.2), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, ((pair, branch), lines) in zip(axes, panels.items(), strict=True):
        for method, (seconds, mean, error) in lines.items():
            axis.errorbar(seconds, mean, yerr=error, marker='o', ms=3, capsize=2, label=method)
        axis.set(xlabel='seconds of training', ylabel='k-NN top-1, %', title=f'{pair}: {branch}')
        axis.grid(alpha=0.3)
        if lines:
            axis.legend(fontsize=7)
    with atomic_write(path) as part:
        figure.savefig(part, dpi=110, format='png')


def _mean_curve(runs: Sequence[Mapping[str, Any]], branch: str) -> tuple[list, list, list]:
    """Mean seconds, mean accuracy and its standard error, at the epochs that all runs have."""
    curves = [
        {epoch: (seconds + teacher_seconds(run), value) for epoch, seconds, value in points}
        for run in runs
        for points in [run['curves'].get(branch, {}).get('knn_top1', [])]
    ]
    epochs = sorted(set.intersection(*map(set, curves)))
    seconds = [statistics.fmean(curve[x][0] for curve in curves) for x in epochs]
    values = [[curve[x][1] for curve in curves] for x in epochs]
    mean = [statistics.fmean(each) for each in values]
    if len(runs) == 1:
        return seconds, mean, [0.0] * len(mean)
    return seconds, mean, [statistics.stdev(each) / len(each) ** 0.5 for each in values]
