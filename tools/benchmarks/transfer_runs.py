# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The same downstream training from several starts: what pretraining is worth."""

import hashlib
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmmokd.cli.config import load_config
from mmmokd.engine.hooks.checkpoint_hook import POINTER
from mmmokd.engine.runners.run_folder import check_folder
from mmmokd.transfer.downstream import plan_transfer, random_start
from mmmokd.utils.atomic import atomic_write
from mmmokd.utils.table import markdown_table

RANDOM = 'random'
RECORD = 'start.json'  # in a run's folder: what its result depends on


class Start(NamedTuple):
    """What a training starts from.

    Attributes:
        name (str): Its name in the table.
        options (dict[str, Any]): Values for ``--cfg-options``.
        report (list[str]): Which weights go where.
        checkpoint (str, optional): Whose weights; None for random ones.
        part (str): Which of them, ``'BRANCH:NETWORK'``.
    """

    name: str
    options: dict[str, Any]
    report: list[str]
    checkpoint: str | None = None
    part: str = RANDOM


def read_start(text: str, config: str | Path, changes: dict[str, Any] | None = None) -> Start:
    """Read ``NAME=CHECKPOINT:BRANCH``, ``NAME=CHECKPOINT:BRANCH:student`` or ``NAME=random``.

    Args:
        text (str): The start.
        config (str | Path): The downstream config, whose model must take the weights.
        changes (dict[str, Any], optional): Other options that the config is run with, by dotted key.
            Defaults to None.

    Returns:
        Start: Its name and the options that bring it about.

    Raises:
        FileNotFoundError: If there is no such checkpoint or config.
        ValueError: If the text is of no such form, or the weights do not fit.
    """
    name, _, what = text.partition('=')
    parts = what.rsplit(':', 2)
    network = parts.pop() if parts[-1] in ('student', 'teacher') else 'teacher'
    if not name or not what or '/' in name or (what != RANDOM and len(parts) < 2):
        raise ValueError(
            f'{text!r} is no start: NAME=CHECKPOINT:BRANCH, NAME=CHECKPOINT:BRANCH:student or '
            f'NAME={RANDOM} is expected'
        )
    if what == RANDOM:
        return Start(name, random_start(config, changes), ['random weights'])
    checkpoint, branch = ':'.join(parts[:-1]), parts[-1]
    report, options = plan_transfer(checkpoint, branch, config, network, changes)
    return Start(name, options, report, checkpoint, f'{branch}:{network}')


def run_start(
    start: Start, config: str | Path, work_dir: Path, seed: int, options: Sequence[str]
) -> dict[str, float]:
    """Train and test once, as a user would by the tools; a run that is done is not run again.

    Args:
        start (Start): What to start from.
        config (str | Path): The downstream config.
        work_dir (Path): Folder to write to.
        seed (int): Seed of the run.
        options (Sequence[str]): Further ``KEY=VALUE`` for both.

    Returns:
        dict[str, float]: The test's measures.

    Raises:
        ValueError: If a tool fails; tells the end of its output. Also if the folder holds a run that
            began otherwise.
    """
    check_folder(work_dir)
    _claim(work_dir, _describe(start, config, seed, options))
    metrics = work_dir / 'metrics.json'
    if not metrics.is_file():
        tools = Path(__file__).resolve().parents[1]
        pairs = [f'{key}={value}' for key, value in start.options.items()]
        common = ['--work-dir', work_dir]
        train = [tools / 'train.py', config, *common, '--resume', 'auto', '--no-validate']
        train.append('--cfg-options')
        _run([*train, *options, *pairs, f'randomness.seed={seed}'], work_dir / 'train.txt')
        trained = (work_dir / POINTER).read_text().strip()
        dumped = work_dir / Path(config).name
        part = metrics.with_suffix('.part.json')
        _run([tools / 'test.py', dumped, trained, *common, '--out', part], work_dir / 'test.txt')
        part.rename(metrics)
    return json.loads(metrics.read_text(encoding='utf-8'))


def _describe(
    start: Start, config: str | Path, seed: int, options: Sequence[str]
) -> dict[str, Any]:
    """What a run's result depends on."""
    weights = None
    if start.checkpoint is not None:
        weights = hashlib.sha256(Path(start.checkpoint).expanduser().read_bytes()).hexdigest()
    text = hashlib.sha256(load_config(config).pretty_text.encode()).hexdigest()
    return dict(part=start.part, weights=weights, config=text, seed=seed, options=[*options])


def _claim(work_dir: Path, run: dict[str, Any]) -> None:
    """Let a folder hold the results of one run."""
    record = work_dir / RECORD
    if record.is_file():
        found = json.loads(record.read_text(encoding='utf-8'))
        changed = [key for key in run if found.get(key) != run[key]]
        if changed:
            raise ValueError(
                f'{work_dir} holds a run of another {" and ".join(changed)}: remove the folder, or '
                'name another one by --out'
            )
    with atomic_write(record) as part:
        part.write_text(json.dumps(run, indent=2) + '\n', encoding='utf-8')


def _run(command: Sequence[Any], output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open('w', encoding='utf-8') as file:
        done = subprocess.run(
            [sys.executable, *map(str, command)], stdout=file, stderr=subprocess.STDOUT
        )
    if done.returncode:
        end = '\n'.join(output.read_text(encoding='utf-8').splitlines()[-15:])
        raise ValueError(
            f'{Path(command[0]).name} ended with status {done.returncode}:\n{end}\n'
            f'(all of it: {output})'
        )


def compare_table(results: dict[str, list[dict[str, float]]], measures: Sequence[str] = ()) -> str:
    """A row for each start: mean, and standard deviation over the seeds, of each measure.

    Args:
        results (dict[str, list[dict[str, float]]]): Measures of every seed by start.
        measures (Sequence[str]): Which to show. Defaults to (), all.

    Returns:
        str: The table in Markdown.

    Raises:
        ValueError: If a measure does not exist.
    """
    found = {
        key: None
        for runs in results.values()
        for run in runs
        for key, value in run.items()
        if isinstance(value, int | float)
    }
    unknown = [key for key in measures if key not in found]
    if unknown or not found:
        raise ValueError(
            f'the tests gave no {", ".join(unknown) or "measure"}, but {", ".join(found) or "none"}'
        )
    measures = list(measures) or list(found)
    rows = [
        [name, *(_summary([run.get(key) for run in runs]) for key in measures)]
        for name, runs in results.items()
    ]
    seeds = len(next(iter(results.values())))
    return markdown_table([f'start ({seeds} seed{"s" * (seeds > 1)})', *measures], rows)


def _summary(values: Sequence[float | None]) -> str:
    if None in values:
        return '-'  # a detector that found nothing has no measures
    # Three decimals serve shares and per cent.
    spread = f' ± {statistics.stdev(values):.3f}' if len(values) > 1 else ''
    return f'{statistics.fmean(values):.3f}{spread}'
