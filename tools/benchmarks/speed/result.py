# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Results of rows, and how they are shown."""

import os
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmmokd.utils.table import markdown_table


class NotMeasuredError(Exception):
    """This machine, or this configuration, cannot measure a row."""


@dataclass(frozen=True)
class Settings:
    """Requests of the user.

    Attributes:
        device (str): ``'cpu'`` or ``'cuda'``.
        quick (bool): Whether sizes are tiny: shows that a row runs, not how fast.
        options (dict[str, Any]): Values that override those of every config.
        rounds (int): How often both sides are timed.
    """

    device: str = 'cpu'
    quick: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    rounds: int = 5


@dataclass
class Result:
    """A measured value beside its baseline.

    Attributes:
        row (str): Name of the row.
        what (str): What was measured.
        unit (str): Of both values.
        ours (float): The value.
        baseline (float, optional): What it is compared with. Defaults to None.
        against (str): What the baseline is. Defaults to ''.
        goal (float, optional): Of the ratio or, with ``absolute``, of the value. Defaults to None.
        at_least (bool): Whether the goal is a lower bound. Defaults to False.
        absolute (bool): See ``goal``. Defaults to False.
    """

    row: str
    what: str
    unit: str
    ours: float
    baseline: float | None = None
    against: str = ''
    goal: float | None = None
    at_least: bool = False
    absolute: bool = False

    @property
    def ratio(self) -> float | None:
        """float, optional: Value over baseline."""
        return self.ours / self.baseline if self.baseline else None

    @property
    def met(self) -> bool | None:
        """bool, optional: Whether the goal is met; None without one."""
        value = self.ours if self.absolute else self.ratio
        if self.goal is None or value is None:
            return None
        return value >= self.goal if self.at_least else value <= self.goal

    def cells(self) -> list[str]:
        """list[str]: A line of the table."""
        goal = ''
        if self.goal is not None:
            unit = f' {self.unit}' if self.absolute else ' x'
            goal = f'{">=" if self.at_least else "<="} {self.goal:g}{unit}'
        baseline = '' if self.baseline is None else f'{number(self.baseline)} ({self.against})'
        return [
            self.row,
            self.what,
            f'{number(self.ours)} {self.unit}',
            baseline,
            '' if self.ratio is None else f'{self.ratio:.2f}',
            goal,
            {None: '', True: 'yes', False: 'no'}[self.met],
        ]


HEADER = ('row', 'what', 'measured', 'baseline', 'ratio', 'goal', 'met')


@dataclass
class Table:
    """Further numbers of a row.

    Attributes:
        title (str): What it shows.
        header (list[str]): Names of the columns.
        rows (list[list[str]]): Cells.
    """

    title: str
    header: list[str]
    rows: list[list[str]]

    def text(self) -> str:
        """str: In Markdown, below its title."""
        return f'{self.title}\n\n{markdown_table(self.header, self.rows)}'


@dataclass
class Measured:
    """Results of a row.

    Attributes:
        results (list[Result]): Lines of the table of all rows.
        tables (list[Table]): Further tables. Defaults to none.
    """

    results: list[Result]
    tables: list[Table] = field(default_factory=list)


def number(value: float) -> str:
    """Write a number with about three digits.

    Args:
        value (float): The number.

    Returns:
        str: Without an exponent.
    """
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f'{value:.{decimals}f}'


def results_table(results: Iterable[Result]) -> str:
    """Write all rows' results as one table.

    Args:
        results (Iterable[Result]): The results.

    Returns:
        str: In Markdown.
    """
    return markdown_table(HEADER, [result.cells() for result in results])


def as_json(results: Iterable[Result]) -> list[dict]:
    """Turn results into what JSON can hold, with ratios.

    Args:
        results (Iterable[Result]): The results.

    Returns:
        list[dict]: One for each.
    """
    return [dict(asdict(result), ratio=result.ratio, met=result.met) for result in results]


def describe_machine() -> dict[str, Any]:
    """Describe what was measured on.

    Returns:
        dict[str, Any]: CPU, cores, threads, load, GPU, versions, commit and date.
    """
    import torch

    from mmmokd.utils.cpu import available_cpus
    from mmmokd.version import __version__

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return dict(
        date=time.strftime('%Y-%m-%d'),
        cpu=_cpu_name(),
        cpus=available_cpus(),
        threads=torch.get_num_threads(),
        load=round(os.getloadavg()[0], 2) if hasattr(os, 'getloadavg') else None,
        gpu=gpu,
        torch=torch.__version__,
        python=platform.python_version(),
        mmmokd=__version__,
        commit=_commit(),
    )


def _cpu_name() -> str:
    """The CPU's model and the instructions that matter to matrix products."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    values = dict(map(str.strip, line.split(':', 1)) for line in lines if ':' in line)
    flags = {*values.get('flags', '').split()} & {'avx2', 'avx512f', 'avx512_bf16', 'amx_bf16'}
    return ' '.join([values.get('model name', platform.machine()), *sorted(flags)])


def _commit() -> str | None:
    """The commit of this checkout, if it is one."""
    command = ('git', 'describe', '--always', '--dirty')
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
