# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Train a model.

    python tools/train.py CONFIG [--work-dir DIR] [--amp] [--resume [CHECKPOINT]] [...]

Takes this package's configs and any other of mmpretrain. On several GPUs: tools/dist_train.sh.
"""

__mmmokd_reads_arguments_first__ = True  # see mmmokd/__init__.py

import argparse
import os

from mmengine.config import Config

from mmmokd.cli.run_tool import run_tool, tool_parser


def parse_args() -> argparse.Namespace:
    parser = tool_parser('Train a model')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='resume from this checkpoint or, without one, from the newest in the work dir, if any',
    )
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='remove what an earlier run wrote to the work dir: checkpoints, logs, its config',
    )
    parser.add_argument(
        '--amp',
        action='store_true',
        help='train in mixed precision: on a GPU, or on a CPU with bfloat16',
    )
    parser.add_argument('--no-validate', action='store_true', help='leave out the validation')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale every learning rate by the batch size over that of the config',
    )
    args = parser.parse_args()
    if args.overwrite and args.resume == 'auto':
        parser.error('--resume continues the run that --overwrite would remove: give one of them')
    os.environ['LOCAL_RANK'] = str(args.local_rank)
    return args


def merge_args(cfg: Config, args: argparse.Namespace) -> None:
    from mmmokd.cli.config import (
        enable_amp,
        require_keys,
        set_dataloader_defaults,
        set_work_dir,
    )

    require_keys(cfg, ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper'), 'training')
    cfg.launcher = args.launcher
    set_work_dir(cfg, args.work_dir)
    set_dataloader_defaults(cfg)
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if args.amp:
        enable_amp(cfg)
    if args.auto_scale_lr:
        require_keys(cfg, ('auto_scale_lr',), '--auto-scale-lr')
        cfg.auto_scale_lr.enable = True
    merge_checkpoint(cfg, args.resume)


def merge_checkpoint(cfg: Config, resume: str | None) -> None:
    """Set, and check, what the run starts from."""
    from mmmokd.engine.resume.find import check_resumable, find_resume_checkpoint
    from mmmokd.weights import read_checkpoint

    if resume == 'auto' or (resume is None and cfg.get('resume') and not cfg.get('load_from')):
        found = find_resume_checkpoint(cfg.work_dir)
        print(
            f'resuming from {found}' if found else f'nothing to resume in {cfg.work_dir}: starting'
        )
        cfg.resume = found is not None
        cfg.load_from = str(found) if found else cfg.get('load_from')
    elif resume is not None:
        cfg.resume, cfg.load_from = True, resume
    if cfg.get('resume'):
        check_resumable(cfg.load_from)
    elif cfg.get('load_from') and '://' not in cfg.load_from:
        read_checkpoint(cfg.load_from)


def main() -> None:
    args = parse_args()
    from mmmokd.cli.config import load_config
    from mmmokd.cli.interrupt import resumable
    from mmmokd.engine.hooks.checkpoint_check_hook import CheckpointCheckHook
    from mmmokd.engine.hooks.data_health_hook import DataHealthHook, check_enough_images
    from mmmokd.engine.hooks.resume_hook import ResumeHook
    from mmmokd.engine.runners.build_runner import (
        build_runner,
        close_process_group,
        describe_run,
        prepare_training,
        use_cpus,
    )
    from mmmokd.engine.runners.run_folder import claim_run_folder

    cfg = load_config(args.config, args.cfg_options)
    merge_args(cfg, args)
    workers = use_cpus(cfg, training=True)
    with claim_run_folder(cfg, args.overwrite), resumable(cfg.work_dir) as position:
        runner = build_runner(cfg)
        runner.logger.info(describe_run(cfg, workers))
        runner.register_hook(position)
        runner.register_hook(CheckpointCheckHook(partial=not cfg.get('resume')))
        if not any(isinstance(hook, ResumeHook) for hook in runner.hooks):
            runner.register_hook(ResumeHook())
        if any(isinstance(hook, DataHealthHook) for hook in runner.hooks):
            check_enough_images(runner.train_dataloader)  # else schedules fail obscurely
        prepare_training(runner)
        runner.train()
    close_process_group()


if __name__ == '__main__':
    run_tool(main)
