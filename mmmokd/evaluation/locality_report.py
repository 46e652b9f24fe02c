# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Tables, figures and plot of the locality of one or several checkpoints."""

import json
import math
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmmokd.analysis import (
    linear_cka,
    receptive_area,
    receptive_radius,
    uniform_attention_distance,
)
from mmmokd.analysis.receptive_field import TWO_SIGMA
from mmmokd.utils.atomic import atomic_write
from mmmokd.utils.errors import ConfigError
from mmmokd.utils.table import markdown_table, mean_and_error
from mmmokd.visualization import plot_locality

from .locality import Locality

FILES = ('locality.md', 'locality.json', 'locality.png')
FRACTIONS = (TWO_SIGMA, 0.5)  # of a receptive field's peak
SHARES = (0.5, 0.8)  # of its mass
ONE_DIGIT = '{:.1f}'.format
UNIFORM = '(uniform)'  # the row of a network that sees everything alike
Results = dict[str, dict[str, list[Locality]]]  # by name of checkpoints and network: one per run


def name_checkpoints(texts: list[str]) -> list[tuple[str, str]]:
    """Read checkpoints with or without names.

    Args:
        texts (list[str]): Each ``'NAME=CHECKPOINT'`` or ``'CHECKPOINT'``, whose name are the last
            folder and the file without its ending. A name may come several times: for checkpoints of
            different branches, each trained alone, and for runs of several seeds.

    Returns:
        list[tuple[str, str]]: Name and path of each.

    Raises:
        ConfigError: If a name or a path is empty, or a path comes twice.
    """
    named: list[tuple[str, str]] = []
    for text in texts:
        name, equals, path = text.partition('=')
        if not equals or Path(text).is_file():
            name, path = '/'.join(Path(text).with_suffix('').parts[-2:]), text
        if not name or not path:
            raise ConfigError(f'a checkpoint is CHECKPOINT or NAME=CHECKPOINT, but got {text!r}')
        if path in [other for _, other in named]:
            raise ConfigError(f'checkpoint {path} is given twice')
        named.append((name, path))
    return named


def add_network(results: Results, checkpoint: str, network: str, found: Locality) -> None:
    """Add a network's measurements to those of its checkpoints' name.

    Args:
        results (dict[str, dict[str, list[Locality]]]): By name and network; changed in place.
        checkpoint (str): Name of the checkpoint.
        network (str): ``'{branch}.{network}'``.
        found (Locality): The measurements; those of another run if there are some already.
    """
    results.setdefault(checkpoint, {}).setdefault(network, []).append(found)


def single_runs(results: Results) -> dict[str, dict[str, Locality]]:
    """Results run by run.

    Args:
        results (dict[str, dict[str, list[Locality]]]): By name of checkpoints and network.

    Returns:
        dict[str, dict[str, Locality]]: By run and network; runs of one name are
        ``'{name} (1)'``, ``'{name} (2)'``, ...
    """
    runs: dict[str, dict[str, Locality]] = {}
    for name, networks in results.items():
        most = max(map(len, networks.values()))
        for number in range(most):
            label = name if most == 1 else f'{name} ({number + 1})'
            runs[label] = {
                network: found[number] for network, found in networks.items() if number < len(found)
            }
    return runs


def summarize(found: Locality) -> dict[str, Any]:
    """Numbers of a network, for JSON.

    Args:
        found (Locality): From :func:`~mmmokd.evaluation.locality.measure_locality`.

    Returns:
        dict[str, Any]: ``'grid'``; ``'attention_distance'``: None for a CNN, else ``'pixels'`` and
        ``'share_of_diagonal'`` by layer and head, their ``'mean'`` in pixels, and that of
        ``'uniform'`` attention; ``'receptive_field'``: ``'area'``, a share of the pixels, by
        fraction of the peak, and ``'radius'`` in pixels by share of the mass.
    """
    attention = None
    if found.distances:
        diagonal = math.hypot(*found.image_size)
        attention = dict(
            mean=_mean_distance(found.distances),
            uniform=uniform_attention_distance(found.grid, found.image_size),
            pixels=[layer.tolist() for layer in found.distances],
            share_of_diagonal=[(layer / diagonal).tolist() for layer in found.distances],
        )
    return dict(
        grid=list(found.grid),
        attention_distance=attention,
        receptive_field=dict(
            area={f'{x:g}': receptive_area(found.field, x) for x in FRACTIONS},
            radius={f'{share:g}': receptive_radius(found.field, share) for share in SHARES},
        ),
    )


def _mean_distance(distances: list[Tensor]) -> float:
    """Over layers, each the mean of its heads."""
    return torch.stack([layer.mean() for layer in distances]).mean().item()


def by_network(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Results by network first, so that what is to be compared is side by side.

    Args:
        results (dict[str, dict]): By checkpoint and network.

    Returns:
        dict[str, dict]: By network and checkpoint.
    """
    networks = dict.fromkeys(name for found in results.values() for name in found)
    return {
        name: {checkpoint: found[name] for checkpoint, found in results.items() if name in found}
        for name in networks
    }


def summary_table(results: Results) -> str:
    """A row for each network and name of checkpoints in Markdown.

    Args:
        results (dict[str, dict[str, list[Locality]]]): By name of checkpoints and network.

    Returns:
        str: The table, of several runs the mean and its standard error; the last row of each network
        is a scale for the others, what a network that sees everything alike would have.
    """
    header = ['network', 'checkpoint', 'attention distance, px', '% of diagonal']
    header += [f'ERF area ({100 * x:g}%), %' for x in FRACTIONS]
    header += [f'ERF radius ({share:.0%}), px' for share in SHARES]
    rows = []
    for network, found in by_network(results).items():
        rows += [[network, name, *_cells(runs)] for name, runs in found.items()]
        first = next(iter(found.values()))[0]
        heads = [torch.tensor([uniform_attention_distance(first.grid, first.image_size)])]
        uniform = first._replace(
            distances=heads if first.distances else [], field=torch.ones(first.image_size)
        )
        rows.append([network, UNIFORM, *_cells([uniform])])
    return markdown_table(header, rows)


def _cells(runs: list[Locality]) -> list[str]:
    attention = ['–', '–']
    if runs[0].distances:
        means = [_mean_distance(run.distances) for run in runs]
        percent = 100 / math.hypot(*runs[0].image_size)
        attention = [mean_and_error(means), mean_and_error([percent * x for x in means], ONE_DIGIT)]
    areas = [
        mean_and_error([100 * receptive_area(run.field, x) for run in runs], ONE_DIGIT)
        for x in FRACTIONS
    ]
    radii = [mean_and_error([receptive_radius(run.field, x) for run in runs]) for x in SHARES]
    return [*attention, *areas, *radii]


def layers_table(found: dict[str, Locality]) -> str:
    """Attention distances of a network by layer and head, in pixels, in Markdown.

    Args:
        found (dict[str, Locality]): By run; those without attention are left out.

    Returns:
        str: The table; '' if none has attention.
    """
    found = {name: each for name, each in found.items() if each.distances}
    if not found:
        return ''
    num_layers = max(len(each.distances) for each in found.values())
    num_heads = max(len(layer) for each in found.values() for layer in each.distances)
    header = ['layer', 'checkpoint', 'mean', *(f'head {n + 1}' for n in range(num_heads))]
    rows = []
    for number in range(num_layers):
        for name, each in found.items():
            heads = each.distances[number] if number < len(each.distances) else torch.empty(0)
            cells = [f'{value:.2f}' for value in heads.tolist()]
            mean = f'{heads.mean():.2f}' if len(heads) else ''
            rows.append([f'{number + 1}', name, mean, *cells, *[''] * (num_heads - len(cells))])
    return markdown_table(header, rows)


def similarity_matrix(
    results: dict[str, dict[str, Locality]],
) -> tuple[list[str], list[list[float | None]]]:
    """Debiased linear CKA of the pooled features of all networks.

    Args:
        results (dict[str, dict[str, Locality]]): By run and network.

    Returns:
        tuple[list[str], list[list[float | None]]]: ``'{run}: {network}'`` of each row and
        column, and the matrix; None where features do not vary.
    """
    pooled = {
        f'{run}: {name}': each.pooled
        for run, found in results.items()
        for name, each in found.items()
    }
    values = [[linear_cka(x, y) for y in pooled.values()] for x in pooled.values()]
    return list(pooled), [[None if math.isnan(x) else x for x in row] for row in values]


def locality_text(results: Results, facts: dict[str, Any]) -> str:
    """All tables in Markdown.

    Args:
        results (dict[str, dict[str, list[Locality]]]): By name of checkpoints and network.
        facts (dict): ``'num_images'`` and ``'images'``, where they are from.

    Returns:
        str: Ends with a line break.
    """
    runs = single_runs(results)
    height, width = _image_size(runs)
    lines = [
        f'Locality on {facts["num_images"]} images of {height}x{width} pixels ({facts["images"]})',
        summary_table(results),
        'Attention distance: mean over layers and heads, patches only. ERF: effective receptive field '
        'of the center of the last map; its area is the share of pixels over a part of its peak, its '
        f'radius that of the disk with a part of its mass. {UNIFORM}: the same attention, or '
        'gradient, everywhere.',
    ]
    for network, found in by_network(runs).items():
        if table := layers_table(found):
            lines += [f'Attention distance of {network} by layer and head, px', table]
    labels, values = similarity_matrix(runs)
    if len(labels) > 1:
        rows = [
            [label, *('–' if value is None else f'{value:.3f}' for value in row)]
            for label, row in zip(labels, values, strict=True)
        ]
        lines += ['Linear CKA (debiased) of pooled features', markdown_table(['', *labels], rows)]
    return '\n\n'.join(lines) + '\n'


def _image_size(runs: dict[str, dict[str, Locality]]) -> tuple[int, int]:
    return next(iter(next(iter(runs.values())).values())).image_size


def write_locality(out: Path, results: Results, facts: dict[str, Any]) -> str:
    """Write ``locality.md``, ``locality.json`` and ``locality.png``, all or none.

    Args:
        out (Path): Folder that :func:`~mmmokd.evaluation.report.check_out` has checked.
        results (dict[str, dict[str, list[Locality]]]): By name of checkpoints and network.
        facts (dict): For the files: ``'config'``, ``'checkpoints'``, ``'images'``,
            ``'num_images'``.

    Returns:
        str: The text of ``locality.md``.
    """
    text, runs = locality_text(results, facts), single_runs(results)
    labels, values = similarity_matrix(runs)
    numbers = {
        name: {network: list(map(summarize, found)) for network, found in networks.items()}
        for name, networks in results.items()
    }
    content = dict(
        facts,
        image_size=list(_image_size(runs)),
        results=numbers,
        linear_cka=dict(networks=labels, values=values),
    )
    networks = by_network(runs)
    distances = {
        network: {run: [x.tolist() for x in each.distances] for run, each in found.items()}
        for network, found in networks.items()
        if any(each.distances for each in found.values())
    }
    fields = {
        network: {run: each.field.numpy() for run, each in found.items()}
        for network, found in networks.items()
    }
    with ExitStack() as stack:  # none takes its place before all are written
        parts = [stack.enter_context(atomic_write(out / name)) for name in FILES]
        parts[0].write_text(text, encoding='utf-8')
        parts[1].write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
        plot_locality(parts[2], distances, fields)
    return text
