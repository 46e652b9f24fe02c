# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Measure how fast pretraining is, and compare with the goals.

    python tools/benchmarks/speed.py [--device cuda] [--rows NAME ...] [--json FILE] [--profile]

Both sides of a ratio are measured in turn in the same run, and their medians compared. All data are
random and made here; nothing is downloaded. All rows: below 10 minutes on 2 CPU cores, below 5 on an
H100.
"""

__mmmokd_reads_arguments_first__ = True  # see mmmokd/__init__.py

import argparse
import json
import os
import sys
import time
import traceback
from pathlib import Path

from speed import ROWS, row_function, rows_of

from mmmokd.cli.run_tool import add_cfg_options, run_tool
from mmmokd.utils.errors import ConfigError, UserError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Measure how fast pretraining is, and compare with the goals'
    )
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu', help='default: cpu')
    parser.add_argument(
        '--rows',
        nargs='+',
        metavar='NAME',
        help=f'rows to measure (default: {" ".join(ROWS["cpu"])}; on a GPU '
        f'{" ".join(ROWS["cuda"])}, most of which run on the CPU as well)',
    )
    parser.add_argument('--json', type=Path, metavar='FILE', help='file to write all results to')
    parser.add_argument(
        '--profile',
        action='store_true',
        help='show where the time of a step goes, by parts and by operators, instead of the rows',
    )
    parser.add_argument('--rounds', type=int, default=5, help='times per side (default: 5)')
    parser.add_argument(
        '--quick', action='store_true', help='tiny sizes, which show that it runs and not how fast'
    )
    add_cfg_options(parser)
    parser.set_defaults(cfg_options_text=[])
    args = parser.parse_args()
    known = rows_of(args.device)
    if unknown := [name for name in args.rows or () if name not in known]:
        parser.error(
            f'--device {args.device} has no row {", ".join(unknown)}: it has {", ".join(known)}'
        )
    if args.rounds < 1:
        parser.error(f'--rounds must be at least 1, but is {args.rounds}')
    return args


def main() -> None:
    args = parse_args()
    if args.device == 'cpu':
        os.environ['CUDA_VISIBLE_DEVICES'] = ''  # before PyTorch looks for GPUs
    import torch
    from mmengine.logging import MMLogger
    from speed.result import Settings, describe_machine

    from mmmokd.utils.cpu import set_threads

    if args.device == 'cuda' and not torch.cuda.is_available():
        raise ConfigError('--device cuda, but PyTorch finds no GPU')
    MMLogger.get_current_instance().setLevel('ERROR')
    set_threads(0, on_gpu=args.device == 'cuda')
    settings = Settings(args.device, args.quick, args.cfg_options or {}, args.rounds)
    report = dict(machine=describe_machine(), quick=args.quick, options=args.cfg_options_text)
    print(', '.join(f'{key} {value}' for key, value in report['machine'].items()), flush=True)
    if args.profile:
        from speed.profiles import profile

        failed = measure(['profile'], lambda name: profile, settings, report, args.json)
    else:
        rows = args.rows or ROWS[args.device]
        failed = measure(rows, row_function, settings, report, args.json)
    if failed:
        sys.exit(1)


def measure(names, find, settings, report: dict, file: Path | None) -> list[str]:
    """Measure rows one after another; one that fails does not keep the others from being measured.

    Args:
        names (Sequence[str]): The rows.
        find (Callable): From a row's name to what measures it.
        settings (Settings): What the user asked for.
        report (dict): Is completed, and written after every row.
        file (Path, optional): File of the report.

    Returns:
        list[str]: The rows that failed.
    """
    from speed.result import NotMeasuredError, as_json, results_table

    results, failed = [], []
    report.update(rows=[], tables=[], seconds={}, not_measured={})
    for name in names:
        start = time.perf_counter()
        try:
            measured = find(name)(settings)
        except NotMeasuredError as error:
            report['not_measured'][name] = str(error)
        except Exception as error:
            failed.append(name)
            report['not_measured'][name] = f'{type(error).__name__}: {error}'
            if not isinstance(error, UserError):
                traceback.print_exc()
        else:
            results += measured.results
            report['rows'] += as_json(measured.results)
            report['tables'] += map(vars, measured.tables)
            for table in measured.tables:
                print(f'\n{table.text()}\n')
        report['seconds'][name] = round(time.perf_counter() - start, 1)
        print(f'{name}: {report["seconds"][name]} s', flush=True)
        save(report, file)
    if results:
        print(f'\n{results_table(results)}')
    for name, reason in report['not_measured'].items():
        print(f'{name}: not measured: {reason}')
    return failed


def save(report: dict, file: Path | None) -> None:
    """Write a report.

    Args:
        report (dict): Machine, rows, tables.
        file (Path, optional): The file; None writes nothing.
    """
    from mmmokd.utils.atomic import atomic_write

    if file is not None:
        with atomic_write(file) as part:
            part.write_text(json.dumps(report, indent=2) + '\n', encoding='utf-8')


if __name__ == '__main__':
    run_tool(main)
