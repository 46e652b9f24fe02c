# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Test a checkpoint.

    python tools/test.py CONFIG CHECKPOINT [--work-dir DIR] [--out METRICS.json] [...]

On several GPUs: tools/dist_test.sh.
"""

__mmmokd_reads_arguments_first__ = True  # see mmmokd/__init__.py

import argparse
import json
import os
from pathlib import Path

from mmengine.config import Config

from mmmokd.cli.run_tool import run_tool, tool_parser


def parse_args() -> argparse.Namespace:
    parser = tool_parser('Test a checkpoint')
    parser.add_argument('checkpoint', help='checkpoint file, with every weight of the model')
    parser.add_argument('--out', metavar='METRICS.json', help='file to write the metrics to')
    args = parser.parse_args()
    if args.out and Path(args.out).suffix != '.json':
        parser.error(f'--out {args.out} should end in .json')
    os.environ['LOCAL_RANK'] = str(args.local_rank)
    return args


def merge_args(cfg: Config, args: argparse.Namespace) -> None:
    from mmmokd.cli.config import require_keys, set_dataloader_defaults, set_work_dir
    from mmmokd.weights import check_target, read_checkpoint

    require_keys(cfg, ('model', 'test_dataloader', 'test_cfg', 'test_evaluator'), 'testing')
    read_checkpoint(args.checkpoint)
    if args.out:
        check_target(args.out, overwrite=True)
    cfg.launcher = args.launcher
    set_work_dir(cfg, args.work_dir)
    set_dataloader_defaults(cfg)
    cfg.resume, cfg.load_from = False, args.checkpoint


def main() -> None:
    args = parse_args()
    from mmengine.dist import is_main_process

    from mmmokd.cli.config import load_config
    from mmmokd.engine.hooks.checkpoint_check_hook import CheckpointCheckHook
    from mmmokd.engine.runners.build_runner import (
        build_runner,
        close_process_group,
        describe_run,
        use_cpus,
    )
    from mmmokd.utils.atomic import atomic_write

    cfg = load_config(args.config, args.cfg_options)
    merge_args(cfg, args)
    workers = use_cpus(cfg, training=False)
    runner = build_runner(cfg)
    runner.logger.info(describe_run(cfg, workers))
    runner.register_hook(CheckpointCheckHook())
    metrics = runner.test()
    if args.out and is_main_process():
        with atomic_write(args.out) as part:
            part.write_text(json.dumps(metrics, indent=2, default=float) + '\n', encoding='utf-8')
    close_process_group()


if __name__ == '__main__':
    run_tool(main)
