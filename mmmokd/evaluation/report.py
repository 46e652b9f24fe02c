# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""k-NN and linear probe of a checkpoint's networks: what is run, and what is written of it."""

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device

from mmmokd.evaluation.metrics.linear_probe_metric import DEFAULT_LRS, HELD_OUT_PREFIX
from mmmokd.evaluation.pipeline import evaluation_pipeline
from mmmokd.utils.atomic import atomic_write
from mmmokd.utils.config_tree import type_name
from mmmokd.utils.errors import ConfigError
from mmmokd.utils.table import markdown_table
from mmmokd.visualization import plot_evaluation
from mmmokd.weights import check_target

KS = (10, 20, 30)
TEMPERATURE = 0.07
FILES = ('results.md', 'results.json', 'results.png')
BATCH_SIZE = 64  # of folders that a config says nothing of
FEATURE_LOOPS = ('FeatureValLoop', 'FeatureTestLoop')


def set_evaluation(
    cfg: Config,
    networks: Sequence[str] = ('teacher',),
    ks: Sequence[int] = KS,
    linear: bool = True,
    linear_epochs: int = 100,
    linear_lrs: Sequence[float] | None = DEFAULT_LRS,
    data: tuple[str, str] | None = None,
    maps: bool = False,
) -> None:
    """Make the test of a config an evaluation of frozen features.

    Args:
        cfg (Config): A config of MOKD, or of another model with ``extract_feat``; its ``test_*``
            are changed in place.
        networks (Sequence[str]): ``'teacher'``, ``'student'`` or both. Defaults to ('teacher', ).
        ks (Sequence[int]): Neighbors of k-NN. Defaults to (10, 20, 30).
        linear (bool): Whether to train linear probes as well. Defaults to True.
        linear_epochs (int): Epochs of the linear probes. Defaults to 100.
        linear_lrs (Sequence[float], optional): As ``lrs`` of :class:`LinearProbeMetric`.
        data (tuple[str, str], optional): Folders of class folders, to learn from and to be
            recognized. Defaults to None: the sets of the config; if it has no bank, the images that
            it trains on, in the pipeline of the test.
        maps (bool): Whether to evaluate feature maps as well, as the config may ask for anyway;
            see :class:`FeatureValLoop`. Defaults to False.

    Raises:
        ValueError: If the config does not say which images to take, or how to read them.
    """
    loops = [cfg.get(name) or {} for name in ('test_cfg', 'val_cfg')]
    bank, queries = _folders(cfg, *data) if data else _own_sets(cfg, loops)
    cfg.test_dataloader = queries
    cfg.test_cfg = dict(
        type='mmmokd.FeatureTestLoop',
        bank_dataloader=bank,
        networks=tuple(networks),
        fp16=loops[0].get('fp16', False),
        maps=maps or any(loop.get('maps') for loop in loops),
        **next(({'bank_share': loop['bank_share']} for loop in loops if 'bank_share' in loop), {}),
    )
    cfg.test_evaluator = [dict(type='mmmokd.KNNMetric', k=tuple(ks), temperature=TEMPERATURE)]
    if linear:
        probe = dict(lrs=linear_lrs, epochs=linear_epochs, log_sweep=True)
        cfg.test_evaluator.append(dict(type='mmmokd.LinearProbeMetric', **probe))


def _own_sets(cfg: Config, loops: list[dict]) -> tuple[dict | None, dict]:
    """Dataloaders of the bank and the queries that a config has; None: the loop makes the bank."""
    queries = cfg.get('test_dataloader') or cfg.get('val_dataloader')
    if not queries:
        raise ConfigError(
            f'{cfg.filename} has no labeled images to evaluate on (test_dataloader or '
            'val_dataloader): give two folders of class folders, --data TRAIN TEST'
        )
    bank = next((loop['bank_dataloader'] for loop in loops if 'bank_dataloader' in loop), None)
    if bank is not None or any(type_name(loop.get('type')) in FEATURE_LOOPS for loop in loops):
        return bank, queries
    dataset = (cfg.get('train_dataloader') or {}).get('dataset', {})
    if 'pipeline' not in dataset or 'pipeline' not in queries['dataset']:
        raise ConfigError(
            f'{cfg.filename} does not define labeled images to learn from: it has neither '
            'test_cfg.bank_dataloader nor a train_dataloader whose dataset has a pipeline'
        )
    dataset = dict(dataset, pipeline=queries['dataset']['pipeline'])
    return _without_workers_kept(dict(queries, dataset=dataset)), queries


def _without_workers_kept(loader: dict) -> dict:
    """Read once, so that workers have nothing to wait for; pinned only where that is possible."""
    return dict(loader, persistent_workers=False, pin_memory=get_device() != 'cpu')


def _folders(cfg: Config, train: str, test: str) -> tuple[dict, dict]:
    """Dataloaders of two folders, in the config's way of reading images."""
    pipeline = evaluation_pipeline(cfg)
    loaders = [cfg.get(f'{mode}_dataloader') or {} for mode in ('test', 'val', 'train')]
    workers = next((x['num_workers'] for x in loaders if 'num_workers' in x), 0)

    def loader(folder: str) -> dict:
        return _without_workers_kept(
            dict(
                batch_size=BATCH_SIZE,
                num_workers=workers,
                dataset=dict(
                    type='mmmokd.ImageFolder',
                    data_root=folder,
                    with_label=True,
                    test_mode=True,
                    pipeline=pipeline,
                ),
                sampler=dict(type='DefaultSampler', shuffle=False),
                collate_fn=dict(type='default_collate'),
            )
        )

    return loader(train), loader(test)


def check_out(out: str | Path, files: Sequence[str] = FILES) -> Path:
    """Make sure that results can be written, before anything is measured.

    Args:
        out (str | Path): Folder for the files; made if it does not exist. Earlier results in it are
            replaced.
        files (Sequence[str]): Their names. Defaults to ``results.md``, ``results.json`` and
            ``results.png``.

    Returns:
        Path: The folder.

    Raises:
        ConfigError: If one of the files is a folder.
        CannotWriteError: If the folder cannot be written to.
    """
    for name in files:
        check_target(Path(out) / name, overwrite=True)
    return Path(out)


def collect_results(metrics: dict[str, float], ks: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Group the metrics of a test by network.

    Args:
        metrics (dict[str, float]): From ``Runner.test`` after :func:`set_evaluation`.
        ks (Sequence[int]): Neighbors of k-NN, as they were asked for.

    Returns:
        dict[str, dict]: By network: ``'knn_top1'`` and ``'knn_top5'`` by k and, of a linear probe,
        ``'linear_top1'``, ``'linear_top5'``, ``'linear_lr'`` and ``'linear_held_out'`` by learning
        rate. Accuracies are in percent.
    """
    results: dict[str, dict[str, Any]] = {}
    for key, value in metrics.items():
        network, metric = key.rsplit('/', 1)
        found = results.setdefault(network, {})
        if metric.startswith('knn_'):
            name, _, k = metric.partition('_k')  # no _k: of the first k
            found.setdefault(name, {})[int(k or ks[0])] = value
        elif metric.startswith(HELD_OUT_PREFIX):
            curve = found.setdefault('linear_held_out', {})
            curve[float(metric.removeprefix(HELD_OUT_PREFIX))] = value
        else:
            found[metric] = value
    return results


def results_table(results: dict[str, dict[str, Any]]) -> str:
    """A row for each network in Markdown.

    Args:
        results (dict[str, dict]): From :func:`collect_results`.

    Returns:
        str: The table.
    """
    header, rows = ['top-1, %'], [[network] for network in results]
    first = next(iter(results.values()))
    for k in first['knn_top1']:
        header.append(f'{k}-NN')
        for row, found in zip(rows, results.values(), strict=True):
            row.append(f'{found["knn_top1"][k]:.2f}')
    if 'linear_top1' in first:
        header += ['linear', 'linear, top-5', 'linear, lr']
        for row, found in zip(rows, results.values(), strict=True):
            row += [f'{found[name]:.2f}' for name in ('linear_top1', 'linear_top5')]
            row.append(f'{found["linear_lr"]:g}')
    return markdown_table(header, rows)


def write_results(out: Path, results: dict[str, dict[str, Any]], facts: dict[str, Any]) -> str:
    """Write ``results.md``, ``results.json`` and ``results.png``, each whole or not at all.

    Args:
        out (Path): Folder that :func:`check_out` has checked.
        results (dict[str, dict]): From :func:`collect_results`.
        facts (dict): What was evaluated, and how, for the files: ``checkpoint``, ``num_bank``,
            ``num_queries`` and ``num_queries_in_bank`` among others.

    Returns:
        str: The table.
    """
    table = results_table(results)
    text = (
        f'{table}\n\nFrozen features of {facts["checkpoint"]}: {facts["num_bank"]} labeled images '
        f'to learn from, {facts["num_queries"]} to recognize.\n'
    )
    if facts.get('num_queries_in_bank'):
        text += (
            f'{facts["num_queries_in_bank"]} of the latter are among the former: none is its own '
            'neighbor, and no probe is trained on it.\n'
        )
    bars = {
        f'{k}-NN': {network: found['knn_top1'][k] for network, found in results.items()}
        for k in next(iter(results.values()))['knn_top1']
    }
    linear = {n: found for n, found in results.items() if 'linear_top1' in found}
    if linear:
        bars['linear'] = {network: found['linear_top1'] for network, found in linear.items()}
    sweeps = {n: x['linear_held_out'] for n, x in linear.items() if 'linear_held_out' in x}
    chosen = {network: found['linear_lr'] for network, found in linear.items()}
    content = json.dumps(dict(facts, results=results), indent=2)
    writers: list[Callable[[Path], Any]] = [
        lambda path: path.write_text(text, encoding='utf-8'),
        lambda path: path.write_text(f'{content}\n', encoding='utf-8'),
        lambda path: plot_evaluation(path, bars, sweeps, chosen),
    ]
    with ExitStack() as stack:  # none takes its place before all are written
        parts = [stack.enter_context(atomic_write(out / name)) for name in FILES]
        for part, write in zip(parts, writers, strict=True):
            write(part)
    return table
