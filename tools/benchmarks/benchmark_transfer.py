# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Train a downstream config from several initializations, over several seeds, and compare.

    python tools/benchmarks/benchmark_transfer.py CONFIG \\
        random=random mokd=work_dirs/pair/epoch_100.pth:cnn alone=work_dirs/cnn/epoch_100.pth:cnn \\
        [--seeds 0 1 2] [--out DIR] [--metrics METRIC ...] [--cfg-options KEY=VALUE ...]

Every run has the same config and schedule. Writes results.md and results.json into DIR; a call that
was stopped continues where it was.
"""

__mmmokd_reads_arguments_first__ = True  # see mmmokd/__init__.py

import argparse
import json
from pathlib import Path

from mmmokd.cli.run_tool import add_cfg_options, add_checkpoint_risk, run_tool
from mmmokd.cli.stop_signals import this_command, where
from mmmokd.utils.errors import ConfigError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Train a downstream config from several initializations, over several seeds, and '
        'compare'
    )
    parser.add_argument('config', help='config of mmpretrain, mmdet or mmseg')
    parser.add_argument(
        'initializations',
        nargs='+',
        metavar='NAME=CHECKPOINT:BRANCH',
        help='weights to start from; also NAME=CHECKPOINT:BRANCH:student or NAME=random',
    )
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2], help='default: 0 1 2')
    parser.add_argument(
        '--out', type=Path, help='folder to write to (default: work_dirs/transfer/NAME_OF_CONFIG)'
    )
    parser.add_argument('--metrics', nargs='+', default=(), help='metrics to show (default: all)')
    add_cfg_options(parser)
    parser.set_defaults(cfg_options_text=[])
    add_checkpoint_risk(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from transfer_runs import compare_table, read_initialization, run_once

    from mmmokd.cli.config import load_config
    from mmmokd.engine.runners.run_folder import check_folder
    from mmmokd.utils.atomic import atomic_write

    out = (args.out or Path('work_dirs') / 'transfer' / Path(args.config).stem).resolve()
    check_folder(out)
    cfg = load_config(args.config, args.cfg_options)
    initializations = [read_initialization(text, cfg) for text in args.initializations]
    results: dict[str, list[dict[str, float]]] = {each.name: [] for each in initializations}
    if len(results) < len(initializations):
        raise ConfigError(
            f'two initializations have the same name: {[each.name for each in initializations]}'
        )
    for each in initializations:
        print(f'== {each.name}', *each.report, sep='\n', flush=True)
    for seed in args.seeds:
        for each in initializations:
            work_dir = out / f'{each.name}_seed{seed}'
            metrics = run_once(each, args.config, work_dir, seed, args.cfg_options_text)
            results[each.name].append(metrics)
            print(f'{each.name}, seed {seed}: {metrics}', flush=True)
    table = compare_table(results, args.metrics)
    with atomic_write(out / 'results.json') as part:
        part.write_text(json.dumps(results, indent=2) + '\n', encoding='utf-8')
    with atomic_write(out / 'results.md') as part:
        part.write_text(f'{table}\n', encoding='utf-8')
    print(f'\n{table}\n\ntable: {out / "results.md"}')


if __name__ == '__main__':
    with where(lambda: f'; resume with: {this_command(resume=False)}'):
        run_tool(main)
