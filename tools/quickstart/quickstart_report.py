# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The results of the quick start's three runs: tables and an image."""

import json
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from quickstart_runs import PROBE, REPORT, RUNS
from quickstart_tables import (
    ACCURACIES,
    BRANCHES,
    PROBE_METRIC,
    SIGNALS,
    Points,
    cost_by_curve,
    describe_costs,
    metric_table,
    probe_table,
    speed_table,
)

from mmmokd.evaluation import weighted_knn
from mmmokd.utils.atomic import atomic_write
from mmmokd.utils.errors import RunStoppedError
from mmmokd.visualization import RunScalars, plot_training, read_scalars

NUM_IMAGES = 4
RAW_SIZE = 28  # pixels


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
    seconds = collect_seconds(scalars)
    probes = {} if raw is None else {PROBE_METRIC: collect_probes(out)}
    tables = [metric_table(metric, found, raw) for metric, found in curves.items()]
    if raw is not None:
        tables[1:1] = [probe_table(*probes.values())]
        tables += [speed_table(curves, seconds)]
    text = '\n\n'.join([*tables, describe_costs(seconds)])
    plot_training(
        out / REPORT[2],
        losses={key: v for key, v in scalars['together'].train.items() if '.loss_' in key},
        metrics=curves,
        costs=cost_by_curve(seconds),
        cost_label='seconds of training (alone: of both runs)',
        baselines={} if raw is None else {'raw pixels': raw},
        views=sample_views(cfg),
    )
    results = dict(raw_pixels=raw, **curves, **probes, epoch_seconds=seconds)
    for name, content in zip(REPORT, (text, json.dumps(results, indent=2)), strict=False):
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


def collect_probes(out: Path) -> dict[str, float]:
    """Top-1 of the linear probe of every branch in every run, as tools/evaluate.py measured it.

    Args:
        out (Path): Folder with one folder a run.

    Returns:
        dict[str, float]: In percent, of pooled features of the teachers, by 'CNN alone' and so on.
    """
    probes = {}
    for run, folder in RUNS.items():
        evaluated = json.loads((out / folder / PROBE).read_text(encoding='utf-8'))['results']
        for branch in folder.split('-'):
            name = f'{BRANCHES[branch]} {run.split()[-1]}'
            probes[name] = evaluated[f'{branch}.teacher']['linear_top1']
    return probes


def collect_seconds(scalars: dict[str, RunScalars]) -> dict[str, float]:
    """Seconds of training that an epoch of each run takes.

    Args:
        scalars (dict[str, RunScalars]): What each run logged.

    Returns:
        dict[str, float]: By run, rounded.

    Raises:
        RunStoppedError: If a run did not log it.
    """
    for run, logged in scalars.items():
        if logged.epoch_seconds is None:
            raise RunStoppedError(f'the run "{run}" logged no time of its iterations')
    return {run: round(logged.epoch_seconds, 3) for run, logged in scalars.items()}


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
