# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Pretrain a small CNN and a small ViT, each alone and both together, and compare.

    bash tools/quickstart.sh [IMAGES] [--out DIR] [--seed N] [--epochs N] [--resume | --overwrite]

Without IMAGES: the Fashion-MNIST subset in resources/. The same command again resumes a quick start
that was stopped, and shows the result of a finished one.
"""

__mmmokd_reads_arguments_first__ = True  # see mmmokd/__init__.py

import argparse
import time
from pathlib import Path

from mmengine.logging import MMLogger
from quickstart_runs import (
    OUT,
    PAIR,
    RUNS,
    default_out,
    is_reported,
    open_record,
    show_report,
    train,
)

from mmmokd.cli.run_tool import run_tool
from mmmokd.cli.stop_signals import this_command, where


def read_path(text: str) -> Path:
    """A path of a command line, absolute."""
    return Path(text).expanduser().resolve()


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='bash tools/quickstart.sh',
        description='Pretrain a CNN and a ViT, alone and together, in minutes on a CPU',
    )
    parser.add_argument(
        'images',
        nargs='?',
        type=read_path,
        help='a folder of images; at least two class folders in it give k-NN accuracies '
        '(default: the Fashion-MNIST subset of the repository)',
    )
    parser.add_argument(
        '--out',
        type=read_path,
        help='folder to write to (default: work_dirs/quickstart/NAME_seedN)',
    )
    parser.add_argument('--seed', type=int, help='of the runs (default: 0)')
    parser.add_argument(
        '--epochs', type=int, help='length of each run (default: fits the number of images)'
    )
    again = parser.add_mutually_exclusive_group()
    again.add_argument(
        '--resume',
        action='store_true',
        help='continue what the folder holds, with its images, seed and length (default: only if '
        'the same is asked for)',
    )
    again.add_argument(
        '--overwrite', action='store_true', help='remove the quick start that the folder holds'
    )
    args = parser.parse_args()
    for name, least in (('seed', 0), ('epochs', 1)):
        if getattr(args, name) is not None and getattr(args, name) < least:
            parser.error(f'--{name} must be at least {least}, but is {getattr(args, name)}')
    return args


def main() -> None:
    args = parse_args()
    from quickstart_data import check_apart, fashion_mnist, find_images, own_images
    from quickstart_report import raw_pixel_knn, write_report

    from mmmokd.engine.runners.run_folder import check_folder, lock_folder

    start = time.time()
    out = args.out or default_out(args.images, args.seed or 0)
    paths = None
    if args.images is not None:  # before anything is written
        check_apart(args.images, out)
        paths = find_images(args.images)
    check_folder(out)
    with lock_folder(out, '--out OTHER'):
        asked = open_record(out, args, len(paths) if paths else None)
        if is_reported(out):
            print(show_report(out))
            return
        if asked['images'] is None:
            task = fashion_mnist(OUT / 'data' / 'fashion_mnist', asked)
        else:
            task = own_images(out / 'images', paths, asked)
        for i, (run, names) in enumerate(RUNS.items(), 1):
            print(f'\n=== run {i} of {len(RUNS)}: {run} (writes to {out / names}) ===', flush=True)
            train(out / names, task)
        cfg = task.load(PAIR)
        MMLogger.get_current_instance().setLevel('WARNING')  # the number of copies, once more
        write_report(out, cfg, raw_pixel_knn(cfg) if task.labeled else None)
        print(show_report(out))
    print(f'this call took {(time.time() - start) / 60:.1f} minutes')


if __name__ == '__main__':
    with where(lambda: f'; resume with: {this_command(resume=False)}'):
        run_tool(main)
