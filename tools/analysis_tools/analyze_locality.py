# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Measure how locally networks look at images: attention distance and effective receptive field.

    python tools/analysis_tools/analyze_locality.py CONFIG CHECKPOINT
    python tools/analysis_tools/analyze_locality.py CONFIG \\
        together=work_dirs/pair/epoch_100.pth \\
        alone=work_dirs/cnn/epoch_100.pth alone=work_dirs/vit/epoch_100.pth [--data FOLDER] [...]

Also gives the similarity (linear CKA) of the networks' features. A checkpoint may lack branches of the
config. Several may share a name: one of each branch, and runs of several seeds, which are averaged.
"""

__mmmokd_reads_arguments_first__ = True  # see mmmokd/__init__.py

import argparse
from pathlib import Path

from mmmokd.cli.run_tool import ToolParser, add_cfg_options, add_checkpoint_risk, run_tool

MIN_IMAGES = 4  # with which CKA is defined


def parse_args() -> argparse.Namespace:
    parser = ToolParser(
        description='Measure how locally the networks of one or several checkpoints look at images, '
        'and how similar their features are'
    )
    parser.add_argument('config', help='config file, with all branches that are to be measured')
    parser.add_argument(
        'checkpoints',
        nargs='+',
        metavar='[NAME=]CHECKPOINT',
        help='checkpoint file, with a name for the tables (default: the last two parts of its path)',
    )
    parser.add_argument(
        '--networks',
        nargs='+',
        choices=['teacher', 'student'],
        default=['teacher'],
        help='networks of every branch (default: teacher)',
    )
    parser.add_argument(
        '--num-images',
        type=int,
        default=128,
        metavar='N',
        help='images, evenly spaced over the dataset (default: %(default)s)',
    )
    parser.add_argument(
        '--data',
        metavar='FOLDER',
        help='folder of images (default: the validation set of the config)',
    )
    parser.add_argument(
        '--batch-size', type=int, default=32, metavar='B', help='default: %(default)s'
    )
    parser.add_argument(
        '--seed',
        type=int,
        default=0,
        help='of the random directions of gradients (default: %(default)s)',
    )
    parser.add_argument(
        '--out',
        metavar='DIR',
        help='folder for locality.md, locality.json and locality.png (default: '
        'work_dirs/locality/NAME_OF_CONFIG)',
    )
    add_cfg_options(parser)
    add_checkpoint_risk(parser)
    args = parser.parse_args()
    if args.num_images < MIN_IMAGES:
        parser.error(f'--num-images must be at least {MIN_IMAGES}, but is {args.num_images}')
    if args.batch_size < 1:
        parser.error(f'--batch-size must be at least 1, but is {args.batch_size}')
    return args


def main() -> None:
    args = parse_args()
    from mmengine.device import get_device

    from mmmokd.cli.config import load_config, require_keys
    from mmmokd.evaluation.features import evaluation_mode
    from mmmokd.evaluation.locality import (
        build_images,
        build_model,
        load_networks,
        measure_locality,
        read_backbones,
        read_images,
    )
    from mmmokd.evaluation.locality_report import (
        FILES,
        add_network,
        name_checkpoints,
        write_locality,
    )
    from mmmokd.evaluation.report import check_out

    cfg = load_config(args.config, args.cfg_options)
    require_keys(cfg, ('model',), 'measuring locality')
    named = name_checkpoints(args.checkpoints)
    files = [read_backbones(path) for _, path in named]
    out = check_out(args.out or Path('work_dirs') / 'locality' / Path(cfg.filename).stem, FILES)
    dataset = build_images(cfg, args.data)
    model = build_model(cfg).to(get_device())
    batches = read_images(model, dataset, args.num_images, args.batch_size)
    results = {}
    with evaluation_mode(model):
        for (name, path), file in zip(named, files, strict=True):
            for network, found in load_networks(model, file, args.networks):
                add_network(results, name, network, measure_locality(found, batches, args.seed))
                print(f'measured: {network} of {path}', flush=True)
    facts = dict(
        config=args.config,
        checkpoints=[dict(name=name, path=path) for name, path in named],
        images=args.data or f'validation set of {Path(cfg.filename).name}',
        num_images=sum(map(len, batches)),
        seed=args.seed,
    )
    text = write_locality(out, results, facts)
    print(f'\n{text}\ntables: {out / "locality.md"}\nplot:   {out / "locality.png"}')


if __name__ == '__main__':
    run_tool(main)
