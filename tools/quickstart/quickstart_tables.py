# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The tables of the quick start's report. Light to import."""

from collections.abc import Mapping

from mmmokd.utils.table import markdown_table

BRANCHES = {'cnn': 'CNN', 'vit': 'ViT'}
# Metrics by their names in the log: k-NN of the teachers' features where there are labels ...
ACCURACIES = {
    'k-NN top-1, %': 'teacher/knn_top1',
    'k-NN top-1 of the feature map, %': 'teacher.map/knn_top1',
}
# ... and statistics of these features where there are none.
SIGNALS = {
    'effective rank of the features': 'effective_rank',
    'standard deviation of the features': 'feature_std',
}
PROBE_METRIC = 'linear probe top-1, %'

Points = list[tuple[float, float]]


def metric_table(metric: str, curves: Mapping[str, Points], raw: float | None) -> str:
    """A row for each branch: untrained, alone, together.

    Args:
        metric (str): What is compared.
        curves (dict[str, list[tuple[float, float]]]): (epoch, value) pairs by 'CNN alone' and so on.
        raw (float, optional): The same of raw pixels.

    Returns:
        str: The table, in Markdown.
    """
    baseline = {} if raw is None else {'raw pixels': raw}
    first = 'untrained' if metric in ACCURACIES else 'first logged'
    rows = []
    for name in BRANCHES.values():
        alone, together = curves[f'{name} alone'], curves[f'{name} together']
        values = [*baseline.values(), alone[0][1], alone[-1][1], together[-1][1]]
        rows.append([name, *(f'{value:.2f}' for value in values)])
    return markdown_table([metric, *baseline, first, 'alone', 'together'], rows)


def probe_table(probes: Mapping[str, float]) -> str:
    """A row for each branch: linear probe alone, together.

    Args:
        probes (dict[str, float]): Top-1 in percent by 'CNN alone' and so on.

    Returns:
        str: The table, in Markdown.
    """
    kinds = ('alone', 'together')
    rows = [
        [name, *(f'{probes[f"{name} {kind}"]:.2f}' for kind in kinds)] for name in BRANCHES.values()
    ]
    return markdown_table([PROBE_METRIC, *kinds], rows)


def first_reached(points: Points, value: float) -> float | None:
    """The first epoch after which a curve has a value.

    Args:
        points (list[tuple[float, float]]): (epoch, value) pairs.
        value (float): At least this.

    Returns:
        float | None: The epoch; None if the curve stays below.
    """
    return next((epoch for epoch, found in points if found >= value), None)


def cost_by_curve(seconds: Mapping[str, float]) -> dict[str, float]:
    """Cost of an epoch for whoever wants both models, by curve.

    Args:
        seconds (dict[str, float]): Seconds of training an epoch, by run.

    Returns:
        dict[str, float]: By 'CNN alone' and so on; alone, it is that of both runs.
    """
    kinds = {
        'alone': sum(seconds[f'{name} alone'] for name in BRANCHES.values()),
        'together': seconds['together'],
    }
    return {f'{name} {kind}': cost for kind, cost in kinds.items() for name in BRANCHES.values()}


def speed_table(metrics: Mapping[str, Mapping[str, Points]], seconds: Mapping[str, float]) -> str:
    """Epochs and seconds of training until the accuracy that a model has at the end alone.

    Args:
        metrics (dict[str, dict[str, list[tuple[float, float]]]]): Curves by metric.
        seconds (dict[str, float]): Seconds of training an epoch, by run.

    Returns:
        str: The table, in Markdown.
    """
    costs = cost_by_curve(seconds)
    rows = []
    for metric, curves in metrics.items():
        for name in BRANCHES.values():
            alone, together = curves[f'{name} alone'], curves[f'{name} together']
            goal = alone[-1][1]
            before, after = first_reached(alone, goal), first_reached(together, goal)
            row = [f'{name}, map' if 'map' in metric else name, f'{goal:.2f}', f'{before:g}']
            row.append('never' if after is None else f'{after:g}')
            row += [f'{before * seconds[f"{name} alone"]:.0f}']
            row += [f'{before * costs[f"{name} alone"]:.0f}']
            row.append('-' if after is None else f'{after * costs[f"{name} together"]:.0f}')
            rows.append(row)
    header = ['until the last k-NN of alone', 'top-1, %', 'epochs alone', 'epochs together']
    header += ['seconds alone', 'seconds of both alone', 'seconds together']
    return markdown_table(header, rows)


def describe_costs(seconds: Mapping[str, float]) -> str:
    """Say what an epoch of each run costs.

    Args:
        seconds (dict[str, float]): Seconds of training an epoch, by run.

    Returns:
        str: A sentence.
    """
    listed = ', '.join(f'{run} {value:.1f} s' for run, value in seconds.items())
    ratio = cost_by_curve(seconds)['CNN together'] / cost_by_curve(seconds)['CNN alone']
    return (
        f'Training, an epoch: {listed}, which is {ratio:.2f} of both alone\n'
        '(at the fastest pace that each run logged; validations not counted).'
    )
