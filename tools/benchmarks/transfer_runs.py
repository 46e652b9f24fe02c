# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The same downstream training from several initializations: what pretraining is worth."""

import hashlib
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from mmmokd.cli.config import load_config
from mmmokd.cli.run_script import run_script
from mmmokd.engine.hooks.checkpoint_hook import POINTER
from mmmokd.engine.runners.run_folder import check_folder
from mmmokd.transfer.downstream import plan_transfer, random_initialization
from mmmokd.utils.atomic import atomic_write
from mmmokd.utils.errors import ConfigError
from mmmokd.utils.table import markdown_table

RANDOM = 'random'
RECORD = 'initialization.json'  # in a run's folder: what its result depends on


class Initialization(NamedTuple):
    """The weights that a training starts from.

    Attributes:
        name (str): Its name in the table.
        options (dict[str, Any]): Values for ``--cfg-options``.
        report (list[str]): Which weights go where.
        checkpoint (str, optional): The file of the weights. Defaults to None, random weights.
        prefix (str): What their names in it begin with. Defaults to ''.
    """

    name: str
    options: dict[str, Any]
    report: list[str]
    checkpoint: str | None = None
    prefix: str = ''


def read_initialization(text: str, cfg: Config) -> Initialization:
    """Read ``NAME=CHECKPOINT:BRANCH``, ``NAME=CHECKPOINT:BRANCH:student`` or ``NAME=random``.

    Args:
        text (str): The initialization.
        cfg (Config): The downstream config, with the options that it is run with; its model must
            take the weights.

    Returns:
        Initialization: Its name and the options that bring it about.

    Raises:
        MissingFileError: If there is no such checkpoint.
        ConfigError: If the text is not of one of these forms, or the weights do not fit.
    """
    name, _, what = text.partition('=')
    parts = what.rsplit(':', 2)
    network = parts.pop() if parts[-1] in ('student', 'teacher') else None
    if not name or not what or '/' in name or (what != RANDOM and len(parts) < 2):
        raise ConfigError(
            f'{text!r} is not an initialization: NAME=CHECKPOINT:BRANCH, '
            f'NAME=CHECKPOINT:BRANCH:student or NAME={RANDOM} is expected'
        )
    if what == RANDOM:
        return Initialization(name, random_initialization(cfg), ['random weights'])
    checkpoint, branch = ':'.join(parts[:-1]), parts[-1]
    report, options = plan_transfer(checkpoint, branch, cfg, network)
    prefix = options['model.backbone.init_cfg.prefix']
    return Initialization(name, options, report, checkpoint, prefix)


def run_once(
    initialization: Initialization,
    config: str | Path,
    work_dir: Path,
    seed: int,
    options: Sequence[str],
) -> dict[str, float]:
    """Train and test once, as a user would by the tools; a run that is done is not run again.

    Args:
        initialization (Initialization): What to start from.
        config (str | Path): The downstream config.
        work_dir (Path): Folder to write to.
        seed (int): Seed of the run.
        options (Sequence[str]): Further ``KEY=VALUE`` for both.

    Returns:
        dict[str, float]: The test's metrics.

    Raises:
        RunStoppedError: If a tool fails; repeats the end of its output.
        ConfigError: If the folder holds a run that began otherwise.
    """
    check_folder(work_dir)
    _claim(work_dir, _describe(initialization, config, seed, options))
    metrics = work_dir / 'metrics.json'
    if not metrics.is_file():
        tools = Path(__file__).resolve().parents[1]
        pairs = [f'{key}={value}' for key, value in initialization.options.items()]
        common = ['--work-dir', work_dir]
        train = [tools / 'train.py', config, *common, '--resume', 'auto', '--no-validate']
        train.append('--cfg-options')
        run_script([*train, *options, *pairs, f'randomness.seed={seed}'], work_dir / 'train.txt')
        trained = (work_dir / POINTER).read_text().strip()
        dumped = work_dir / Path(config).name
        test = [tools / 'test.py', dumped, trained, *common, '--out', metrics]
        run_script(test, work_dir / 'test.txt')
    return json.loads(metrics.read_text(encoding='utf-8'))


def _describe(
    initialization: Initialization, config: str | Path, seed: int, options: Sequence[str]
) -> dict[str, Any]:
    """Everything that a run's result depends on."""
    weights = None
    if initialization.checkpoint is not None:
        file = Path(initialization.checkpoint).expanduser()
        weights = hashlib.sha256(file.read_bytes()).hexdigest()
    text = hashlib.sha256(load_config(config).pretty_text.encode()).hexdigest()
    prefix = initialization.prefix
    return dict(prefix=prefix, weights=weights, config=text, seed=seed, options=[*options])


def _claim(work_dir: Path, run: dict[str, Any]) -> None:
    """Let a folder hold the results of one run."""
    record = work_dir / RECORD
    if record.is_file():
        found = json.loads(record.read_text(encoding='utf-8'))
        changed = [key for key in run if found.get(key) != run[key]]
        if changed:
            raise ConfigError(
                f'{work_dir} holds a run of another {" and ".join(changed)}: remove the folder, or '
                'name another one by --out'
            )
    with atomic_write(record) as part:
        part.write_text(json.dumps(run, indent=2) + '\n', encoding='utf-8')


def compare_table(results: dict[str, list[dict[str, float]]], metrics: Sequence[str] = ()) -> str:
    """A row for each initialization: mean, and standard deviation over the seeds, of each metric.

    Args:
        results (dict[str, list[dict[str, float]]]): Metrics of every seed, by initialization.
        metrics (Sequence[str]): Which to show. Defaults to (), all.

    Returns:
        str: The table in Markdown.

    Raises:
        ConfigError: If a metric does not exist.
    """
    found = {
        key: None
        for runs in results.values()
        for run in runs
        for key, value in run.items()
        if isinstance(value, int | float)
    }
    unknown = [key for key in metrics if key not in found]
    if unknown or not found:
        raise ConfigError(
            f'the tests gave no {", ".join(unknown) or "metric"}, but {", ".join(found) or "none"}'
        )
    metrics = list(metrics) or list(found)
    rows = [
        [name, *(_summary([run.get(key) for run in runs]) for key in metrics)]
        for name, runs in results.items()
    ]
    seeds = len(next(iter(results.values())))
    return markdown_table([f'initialization ({seeds} seed{"s" * (seeds > 1)})', *metrics], rows)


def _summary(values: Sequence[float | None]) -> str:
    if None in values:
        return '-'  # a detector that found nothing has no metrics
    # Three decimals suit shares and percentages.
    spread = f' ± {statistics.stdev(values):.3f}' if len(values) > 1 else ''
    return f'{statistics.fmean(values):.3f}{spread}'
