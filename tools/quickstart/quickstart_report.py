# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The results of the quick start's three runs: a table and an image."""

import json
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from quickstart_runs import REPORT, RUNS

from mmmokd.evaluation import weighted_knn
from mmmokd.utils.atomic import atomic_write
from mmmokd.utils.errors import RunStoppedError
from mmmokd.utils.table import markdown_table
from mmmokd.visualization import RunScalars, plot_training, read_scalars

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
NUM_IMAGES = 4
RAW_SIZE = 28  # pixels

Points = list[tuple[float, float]]


def write_report(out: Path, cfg: Config, raw: float | None) -> None:
    """Write ``results.md``, ``results.json`` and ``quickstart.png``.

    Args:
        out (Path): Folder with one folder a run, named as in ``RUNS``.
        cfg (Config): Config of the joint run, for the images and their views.
        raw (float, optional): k-NN top-1 of raw pixels in percent, None for images without
            labels.

    Raises:
        RunStoppedError: If a run did not log what is compared.
    """
    scalars = {run: read_scalars(out / folder) for run, folder in RUNS.items()}
    metrics = SIGNALS if raw is None else ACCURACIES
    curves = {name: collect(scalars, name) for name in metrics}
    text = '\n\n'.join(table(metric, found, raw) for metric, found in curves.items())
    plot_training(
        out / REPORT[2],
        losses={key: v for key, v in scalars['together'].train.items() if '.loss_' in key},
        metrics=curves,
        baselines={} if raw is None else {'raw pixels': raw},
        views=sample_views(cfg),
    )
    results = json.dumps(dict(raw_pixels=raw, **curves), indent=2)
    for name, content in zip(REPORT, (text, results), strict=False):
        with atomic_write(out / name) as part:
            part.write_text(f'{content}\n', encoding='utf-8')


def collect(scalars: dict[str, RunScalars], metric: str) -> dict[str, Points]:
    """A metric over the epochs, of every branch in every run.

    Args:
        scalars (dict[str, RunScalars]): What each run logged.
        metric (str): One of ``ACCURACIES`` or ``SIGNALS``.

    Returns:
        dict[str, list[tuple[float, float]]]: (epoch, value) pairs by 'CNN alone', 'CNN together'
        and so on.

    Raises:
        RunStoppedError: If a run did not log it.
    """
    curves = {}
    for run, folder in RUNS.items():
        for branch in folder.split('-'):
            if metric in ACCURACIES:
                points = scalars[run].val.get(f'{branch}.{ACCURACIES[metric]}')
            else:
                points = scalars[run].train.get(f'{branch}.{SIGNALS[metric]}')
            if not points:
                raise RunStoppedError(f'the run "{run}" logged no {metric} of {BRANCHES[branch]}')
            curves[f'{BRANCHES[branch]} {run.split()[-1]}'] = points
    return curves


def table(metric: str, curves: dict[str, Points], raw: float | None) -> str:
    """A row for each branch in Markdown: untrained, alone, together.

    Args:
        metric (str): What is compared.
        curves (dict[str, list[tuple[float, float]]]): From :func:`collect`.
        raw (float, optional): The same of raw pixels.

    Returns:
        str: The table.
    """
    baseline = {} if raw is None else {'raw pixels': raw}
    first = 'untrained' if metric in ACCURACIES else 'first logged'
    rows = []
    for name in BRANCHES.values():
        alone, together = curves[f'{name} alone'], curves[f'{name} together']
        values = [*baseline.values(), alone[0][1], alone[-1][1], together[-1][1]]
        rows.append([name, *(f'{value:.2f}' for value in values)])
    return markdown_table([metric, *baseline, first, 'alone', 'together'], rows)


def raw_pixel_knn(cfg: Config, k: int = 20) -> float:
    """k-NN top-1 of the images' own pixels: what a model has to beat.

    Args:
        cfg (Config): Config with ``val_dataloader`` and ``val_cfg.bank_dataloader``.
        k (int): Neighbors. Defaults to 20.

    Returns:
        float: Accuracy in percent.
    """
    init_default_scope(cfg.default_scope)
    resize = dict(type='Resize', scale=(RAW_SIZE, RAW_SIZE), interpolation='area')
    sets = []
    for loader in (cfg.val_cfg.bank_dataloader, cfg.val_dataloader):
        pipeline = [dict(type='mmmokd.LoadImage'), resize]
        samples = list(DATASETS.build(dict(loader.dataset, pipeline=pipeline)))
        pixels = torch.from_numpy(np.stack([sample['img'] for sample in samples]))
        labels = torch.tensor([int(sample['gt_label']) for sample in samples])
        sets.append((pixels.flatten(1).float(), labels))
    (bank, bank_labels), (queries, labels) = sets
    predicted = weighted_knn(bank, bank_labels, queries, k=k)[k][:, 0]
    return 100 * (predicted == labels).double().mean().item()


def sample_views(cfg: Config) -> list[list[np.ndarray]]:
    """The views of some training images, made as in training.

    Args:
        cfg (Config): Config with ``train_dataloader``.

    Returns:
        list[list[np.ndarray]]: For each image its views, each (H, W, 3), RGB, uint8.
    """
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    indices = range(0, len(dataset), max(1, len(dataset) // NUM_IMAGES))[:NUM_IMAGES]
    is_rgb = any(step.get('to_rgb') for step in cfg.train_dataloader.dataset.pipeline)
    step = 1 if is_rgb else -1
    return [
        [view.permute(1, 2, 0).numpy()[..., ::step] for view in dataset[i]['inputs']]
        for i in indices
    ]
