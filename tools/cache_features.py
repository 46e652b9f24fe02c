# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Keep the features of a frozen branch's backbone, for training that reads them.

    python tools/cache_features.py CONFIG BRANCH [--draws 8] [--out DIR] [...]
    python tools/train.py CONFIG --cfg-options model.branches.BRANCH.cache=DIR

Every image gets a number of fixed draws of views; training then makes the same views.
"""

__mmmokd_reads_arguments_first__ = True  # see mmmokd/__init__.py

import argparse
from pathlib import Path

from mmmokd.cli.run_tool import run_tool, tool_parser


def parse_args() -> argparse.Namespace:
    parser = tool_parser("Keep the features of a frozen branch's backbone, of fixed views")
    parser.add_argument('branch', help='name of the branch')
    parser.add_argument(
        '--draws',
        type=int,
        default=8,
        metavar='N',
        help='draws of views of each image; epoch e of training takes draw e modulo N (default: '
        '%(default)s)',
    )
    parser.add_argument('--seed', type=int, default=0, help='of the draws (default: %(default)s)')
    parser.add_argument(
        '--dtype',
        choices=['float16', 'float32'],
        default='float16',
        help='how features are kept (default: %(default)s)',
    )
    parser.add_argument(
        '--out', metavar='DIR', help='folder to write to (default: WORK_DIR/features/BRANCH)'
    )
    args = parser.parse_args()
    if args.launcher != 'none':
        parser.error('features are written by one process: leave --launcher out')
    return args


def main() -> None:
    args = parse_args()
    from mmmokd.cli.config import (
        load_config,
        require_keys,
        set_dataloader_defaults,
        set_work_dir,
    )
    from mmmokd.engine.feature_writer import GIB, FeatureWriter
    from mmmokd.engine.runners.build_runner import build_runner, describe_run, use_cpus
    from mmmokd.engine.runners.fixed_views import fix_views

    cfg = load_config(args.config, args.cfg_options)
    require_keys(cfg, ('model', 'train_dataloader'), 'keeping features')
    cfg.launcher = args.launcher
    set_work_dir(cfg, args.work_dir)
    set_dataloader_defaults(cfg)
    branch = (cfg.model.get('branches') or {}).get(args.branch)
    if isinstance(branch, dict):
        branch.pop('cache', None)  # which may be the one that is to be written
    fix_views(cfg, args.draws, args.seed)
    cfg.resume = False
    workers = use_cpus(cfg, training=True)
    runner = build_runner(cfg)
    runner.logger.info(describe_run(cfg, workers))
    runner.model.init_weights()
    runner.load_or_resume()
    out = Path(args.out or Path(cfg.work_dir) / 'features' / args.branch)
    writer = FeatureWriter(runner, args.branch, out, args.dtype)
    runner.logger.info(
        f'{args.branch}: {len(writer.dataset)} images, {args.draws} draws of views, '
        f'{writer.num_bytes / GIB:.3f} GiB in {out}'
    )
    rate = writer.write(runner.logger.info)
    print(
        f'\nfeatures: {out} ({rate:.0f} images/s)\nuse them by\n'
        f'  --cfg-options model.branches.{args.branch}.cache={out}'
    )


if __name__ == '__main__':
    run_tool(main)
