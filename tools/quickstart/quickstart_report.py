# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""What the quick start's three runs come to: a table and an image."""

import json
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from quickstart_data import raw_pixel_knn

from mmmokd.utils.atomic import atomic_write
from mmmokd.utils.table import markdown_table
from mmmokd.visualization import RunScalars, plot_training, read_scalars

RUNS = {'CNN alone': 'cnn', 'ViT alone': 'vit', 'together': 'cnn-vit'}
BRANCHES = {'cnn': 'CNN', 'vit': 'ViT'}
KNN = 'k-NN top-1, %'
MAP_KNN = 'k-NN top-1 of the feature map, %'
# Of labeled images, by their name in the log after the teacher's.
ACCURACIES = {KNN: '', MAP_KNN: '.map'}
# Without labels: measures of the teacher's features, by their name in the log.
SIGNALS = {
    'effective rank of the features': 'effective_rank',
    'standard deviation of the features': 'feature_std',
}
REPORT = ('results.md', 'results.json', 'quickstart.png')
NUM_IMAGES = 4
RAW_SIZE = 28  # pixels

Points = list[tuple[float, float]]


def write_report(out: Path, cfg: Config, raw: float | None) -> str:
    """Write ``results.md``, ``results.json`` and ``quickstart.png``.

    Args:
        out (Path): Folder with one folder a run, named as in ``RUNS``.
        cfg (Config): Config of the joint run, for the images and their views.
        raw (float, optional): k-NN top-1 of raw pixels in per cent, None for images without
            labels.

    Returns:
        str: The table and where the files are.

    Raises:
        ValueError: If a run did not log what is compared.
    """
    scalars = {run: read_scalars(out / folder) for run, folder in RUNS.items()}
    measures = list(ACCURACIES if raw is not None else SIGNALS)
    epochs = cfg.train_cfg.max_epochs
    curves = {measure: collect(scalars, measure, epochs) for measure in measures}
    text = '\n\n'.join(table(measure, found, raw) for measure, found in curves.items())
    views = sample_views(cfg)
    plot_training(
        out / 'quickstart.png',
        losses={key: v for key, v in scalars['together'].train.items() if '.loss_' in key},
        measures=curves,
        baselines={} if raw is None else {'raw pixels': raw},
        views=views,
    )
    results = dict(raw_pixels=raw, **curves)
    with atomic_write(out / 'results.md') as part:
        part.write_text(f'{text}\n', encoding='utf-8')
    with atomic_write(out / 'results.json') as part:
        part.write_text(json.dumps(results, indent=2) + '\n', encoding='utf-8')
    return f'\n{text}\n\ntable:   {out / "results.md"}\nimage: {out / "quickstart.png"}'


def collect(scalars: dict[str, RunScalars], measure: str, epochs: int) -> dict[str, Points]:
    """A measure over the epochs, of every branch in every run.

    Args:
        scalars (dict[str, RunScalars]): What each run logged.
        measure (str): One of ``ACCURACIES`` or ``SIGNALS``.
        epochs (int): Length of each run.

    Returns:
        dict[str, list[tuple[float, float]]]: (epoch, value) pairs by 'CNN alone', 'CNN together'
        and so on.

    Raises:
        ValueError: If a run did not log it, from before the first epoch (k-NN) to the last one.
    """
    curves = {}
    for run, folder in RUNS.items():
        for branch in folder.split('-'):
            if measure in ACCURACIES:
                points = scalars[run].val.get(f'{branch}.teacher{ACCURACIES[measure]}/knn_top1')
            else:
                points = scalars[run].train.get(f'{branch}.{SIGNALS[measure]}')
            if not points:
                raise ValueError(f'the run "{run}" logged no {measure} of {BRANCHES[branch]}')
            first, last = points[0][0], points[-1][0]
            if last <= epochs - 1 or (measure in ACCURACIES and first > 0):
                raise ValueError(
                    f'the run "{run}" logged {measure} of {BRANCHES[branch]} from epoch {first:g} '
                    f'to {last:g} only, not over its {epochs}: remove its folder, {folder}'
                )
            curves[f'{BRANCHES[branch]} {run.split()[-1]}'] = points
    return curves


def table(measure: str, curves: dict[str, Points], raw: float | None) -> str:
    """A row for each branch in Markdown: untrained, alone, together.

    Args:
        measure (str): What is compared.
        curves (dict[str, list[tuple[float, float]]]): From :func:`collect`.
        raw (float, optional): The same of raw pixels.

    Returns:
        str: The table.
    """
    first = 'untrained' if measure in ACCURACIES else 'first logged'
    header = [measure, *(['raw pixels'] if raw is not None else []), first, 'alone', 'together']
    rows = []
    for name in BRANCHES.values():
        alone, together = curves[f'{name} alone'], curves[f'{name} together']
        values = [*([raw] if raw is not None else []), alone[0][1], alone[-1][1], together[-1][1]]
        rows.append([name, *(f'{value:.2f}' for value in values)])
    return markdown_table(header, rows)


def raw_pixel_baseline(cfg: Config) -> float:
    """k-NN top-1 of the images' own pixels.

    Args:
        cfg (Config): Config with ``val_dataloader`` and ``val_cfg.bank_dataloader``.

    Returns:
        float: Accuracy in per cent.
    """
    init_default_scope(cfg.default_scope)
    bank, queries = (
        DATASETS.build(dict(loader.dataset, pipeline=[dict(type='mmmokd.LoadImage')]))
        for loader in (cfg.val_cfg.bank_dataloader, cfg.val_dataloader)
    )
    return raw_pixel_knn(bank, queries, RAW_SIZE)


def sample_views(cfg: Config) -> list[list[np.ndarray]]:
    """The views of some training images, made as in training.

    Args:
        cfg (Config): Config with ``train_dataloader``.

    Returns:
        list[list[np.ndarray]]: For each image its views, each (H, W, 3), BGR, uint8.
    """
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    step = max(1, len(dataset) // NUM_IMAGES)
    return [
        [view.permute(1, 2, 0).numpy() for view in dataset[i]['inputs']]
        for i in range(0, len(dataset), step)
    ][:NUM_IMAGES]
