# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Evaluate a checkpoint's frozen features by k-NN and linear probes; write a table and a plot.

    python tools/evaluate.py CONFIG CHECKPOINT [--networks teacher student] [--out DIR] [...]
    python tools/evaluate.py CONFIG CHECKPOINT --data TRAIN_FOLDER TEST_FOLDER

On several GPUs: tools/dist_evaluate.sh.
"""

__mmmokd_reads_arguments_first__ = True  # see mmmokd/__init__.py

import argparse
import os
from pathlib import Path

from mmengine.config import Config

from mmmokd.cli.run_tool import run_tool, tool_parser

KS = (10, 20, 30)
LRS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


def parse_args() -> argparse.Namespace:
    parser = tool_parser('Evaluate the frozen features of a checkpoint by k-NN and linear probes')
    parser.add_argument('checkpoint', help='checkpoint file, with every weight of the model')
    parser.add_argument(
        '--networks',
        nargs='+',
        choices=['teacher', 'student'],
        default=['teacher'],
        help='networks of every branch; of no meaning for a model without branches (default: '
        'teacher)',
    )
    parser.add_argument(
        '--maps',
        action='store_true',
        help='evaluate the last feature maps as well, which keep the spatial layout: small ones only, '
        'since one per image is kept (default: pooled features only)',
    )
    parser.add_argument(
        '--knn',
        nargs='+',
        type=int,
        default=list(KS),
        metavar='K',
        help='numbers of neighbors (default: 10 20 30)',
    )
    parser.add_argument('--no-linear', action='store_true', help='k-NN only')
    parser.add_argument(
        '--linear-epochs', type=int, default=100, metavar='N', help='default: %(default)s'
    )
    parser.add_argument(
        '--linear-lr',
        nargs='+',
        default=[*map(str, LRS)],
        metavar='LR',
        help='learning rates for a batch of 256, of which the best on a held-out share of TRAIN is '
        "taken; 'authors': 0.001 for a network with class tokens of several blocks, else 0.01 "
        f'(default: {" ".join(f"{lr:g}" for lr in LRS)})',
    )
    parser.add_argument(
        '--data',
        nargs=2,
        metavar=('TRAIN', 'TEST'),
        help='two folders of class folders, to learn from and to be recognized (default: the '
        'labeled sets of the config)',
    )
    parser.add_argument(
        '--out',
        metavar='DIR',
        help='folder for results.md, results.json and results.png (default: WORK_DIR/evaluation)',
    )
    args = parser.parse_args()
    try:
        args.linear_lr = None if args.linear_lr == ['authors'] else [*map(float, args.linear_lr)]
    except ValueError:
        parser.error(f"--linear-lr takes numbers, or 'authors', not {' '.join(args.linear_lr)}")
    os.environ['LOCAL_RANK'] = str(args.local_rank)
    return args


def merge_args(cfg: Config, args: argparse.Namespace) -> None:
    from mmmokd.cli.config import require_keys, set_dataloader_defaults, set_work_dir
    from mmmokd.evaluation.report import set_evaluation
    from mmmokd.weights import read_checkpoint

    require_keys(cfg, ('model',), 'evaluating features')
    read_checkpoint(args.checkpoint)
    cfg.launcher = args.launcher
    set_work_dir(cfg, args.work_dir)
    set_dataloader_defaults(cfg)
    set_evaluation(
        cfg,
        networks=args.networks,
        ks=args.knn,
        linear=not args.no_linear,
        linear_epochs=args.linear_epochs,
        linear_lrs=args.linear_lr,
        data=args.data,
        maps=args.maps,
    )
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
    from mmmokd.evaluation.report import check_out, collect_results, write_results

    cfg = load_config(args.config, args.cfg_options)
    merge_args(cfg, args)
    out = check_out(args.out or Path(cfg.work_dir) / 'evaluation')
    workers = use_cpus(cfg, training=False)
    runner = build_runner(cfg)
    runner.logger.info(describe_run(cfg, workers))
    runner.register_hook(CheckpointCheckHook())
    metrics = runner.test()
    if is_main_process():
        loop = runner.test_loop
        facts = dict(
            config=args.config,
            checkpoint=args.checkpoint,
            num_bank=len(loop.bank_dataloader.dataset),
            num_queries=len(loop.dataloader.dataset),
            num_queries_in_bank=loop.overlap.num_queries,
            linear_epochs=None if args.no_linear else args.linear_epochs,
        )
        table = write_results(out, collect_results(metrics, args.knn), facts)
        print(f'\n{table}\n\ntable: {out / "results.md"}\nplot:  {out / "results.png"}')
    close_process_group()


if __name__ == '__main__':
    run_tool(main)
