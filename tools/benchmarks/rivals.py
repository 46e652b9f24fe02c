# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Pretrain the same pairs of models by several methods, and compare results and cost.

    python tools/benchmarks/rivals.py [--methods NAME ...] [--pairs NAME ...] [--seeds N ...] [...]

With the same seed all methods see the same views in the same order. The same command again resumes
what was stopped, repeats what failed, and shows the table. Without arguments: minutes on 2 CPU cores.
"""

__mmmokd_reads_arguments_first__ = True  # see mmmokd/__init__.py

import argparse
from pathlib import Path

from rivals.cases import Case, Entries

from mmmokd.cli.run_tool import add_cfg_options, run_tool
from mmmokd.cli.stop_signals import this_command, where
from mmmokd.utils.errors import ConfigError

SMALLEST = 'fashion-mnist-1k'
ROOT = Path(__file__).resolve().parents[2]


def add_evaluation_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--networks',
        nargs='+',
        choices=['teacher', 'student'],
        default=['teacher'],
        help='networks to evaluate at the end (default: teacher)',
    )
    parser.add_argument(
        '--linear-epochs',
        type=int,
        default=100,
        metavar='N',
        help='epochs of linear probes; 0 leaves them out (default: 100)',
    )


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Pretrain the same pairs of models by several methods, and compare'
    )
    parser.add_argument(
        '--methods',
        nargs='+',
        default=['alone', 'mokd'],
        metavar='NAME',
        help='see --list; NAME@BRANCH trains one branch without the others (default: alone mokd)',
    )
    parser.add_argument(
        '--pairs', nargs='+', default=[SMALLEST], metavar='NAME', help=f'default: {SMALLEST}'
    )
    parser.add_argument('--seeds', nargs='+', type=int, default=[0], help='default: 0')
    parser.add_argument('--epochs', type=int, help="length of each run (default: the config's)")
    parser.add_argument(
        '--out', type=Path, default=Path('work_dirs/rivals'), help='default: work_dirs/rivals'
    )
    parser.add_argument(
        '--data',
        nargs=2,
        metavar=('TRAIN', 'TEST'),
        help="two folders of class folders, in place of the pairs' images: to train on without "
        'labels and to vote with them, and to test on; images of the size that the pair takes',
    )
    parser.add_argument(
        '--table',
        nargs='+',
        default=[],
        metavar='FILE',
        help='files with further methods and pairs, of the form of rivals/entries.py',
    )
    parser.add_argument('--list', action='store_true', help='list methods and pairs, and end')
    add_evaluation_arguments(parser)
    parser.add_argument(
        '--against',
        default='alone',
        metavar='NAME',
        help='method that the others are compared with, seed by seed (default: alone)',
    )
    parser.add_argument(
        '--overwrite', action='store_true', help='replace runs of other settings in the folder'
    )
    add_cfg_options(parser)
    args = parser.parse_args()
    for name, least in (('epochs', 1), ('linear_epochs', 0)):
        if (getattr(args, name) or least) < least:
            parser.error(f'--{name.replace("_", "-")} must be at least {least}')
    if min(args.seeds) < 0:
        parser.error('--seeds must be at least 0')
    return args


def list_cases(args: argparse.Namespace, entries: Entries) -> list[Case]:
    """List what is to be run, all methods of a pair and a seed one after another.

    Args:
        args (argparse.Namespace): What the user asked for.
        entries (Entries): The tables.

    Returns:
        list[Case]: Each once.

    Raises:
        ConfigError: If a method or a pair does not exist.
    """
    options = dict(args.cfg_options or {})
    if args.epochs:
        options['train_cfg.max_epochs'] = args.epochs
    pairs = [entries.pair(name) for name in dict.fromkeys(args.pairs)]
    methods = [entries.method(name) for name in dict.fromkeys(args.methods)]
    folders = tuple(str(Path(each).expanduser()) for each in args.data or ()) or None
    return [
        Case(method, pair, seed, options, folders)
        for seed in dict.fromkeys(args.seeds)
        for pair in pairs
        for method in methods
    ]


def prepare_data(pairs: list) -> dict[str, dict[str, str]]:
    """Make images ready.

    Args:
        pairs (list[Pair]): The pairs.

    Returns:
        dict[str, dict[str, str]]: Options that say where they are, by pair.

    Raises:
        ConfigError: If a pair asks for images that are not the repository's.
    """
    from rivals.data import prepare

    return {pair.name: prepare(pair.data) for pair in pairs if pair.data}


def main() -> None:
    args = parse_args()
    entries = Entries(args.table)
    if args.list:
        for kind, table in entries.tables.items():
            print(f'{kind}: {", ".join(table)}')
        return
    cases = list_cases(args, entries)
    from mmengine.logging import MMLogger
    from rivals.summary import PLOT, RESULTS, TABLE, plot, write_summary
    from rivals.trainings import Benchmark, Evaluation

    from mmmokd.engine.runners.run_folder import check_folder, lock_folder

    MMLogger.get_current_instance().setLevel('ERROR')
    out = args.out.expanduser().resolve()
    check_folder(out)
    with lock_folder(out, '--out OTHER'):
        evaluation = Evaluation(tuple(args.networks), args.linear_epochs)
        pairs = {case.pair.name: case.pair for case in cases if not case.folders}
        data = prepare_data([*pairs.values()])
        benchmark = Benchmark(out, entries.method, data, evaluation, args.overwrite)
        for case in cases:
            benchmark.run(case)
            text = write_summary(out, benchmark.records, benchmark.failed, args.against)
        print(f'\n{text}\n\ntable: {out / TABLE}\nruns:  {out / RESULTS}')
        try:
            plot(out / PLOT, benchmark.records.values())
        except ImportError as error:
            print(f'no plot, which needs matplotlib (pip install matplotlib): {error}')
        else:
            print(f'plot:  {out / PLOT}')
    if benchmark.failed:
        raise ConfigError(f'{len(benchmark.failed)} of the runs failed, see above')


if __name__ == '__main__':
    with where(lambda: f'; resume with: {this_command(resume=False)}'):
        run_tool(main)
