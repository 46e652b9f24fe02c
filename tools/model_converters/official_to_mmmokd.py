# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Convert a checkpoint of the authors' official MOKD into one of this package.

    python tools/model_converters/official_to_mmmokd.py SRC DST [--config CONFIG] [--force]

Reads weights only: no code that SRC may hold is run. The authors' files keep their arguments as an
argparse.Namespace; that one class, which only holds values, is let through.
"""

__mmmokd_reads_arguments_first__ = True  # see mmmokd/__init__.py

import argparse

from mmmokd.cli.run_tool import add_checkpoint_risk, run_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Convert a checkpoint of the authors' official MOKD into one of this package"
    )
    parser.add_argument('src', help="checkpoint in the authors' format")
    parser.add_argument('dst', help='file to write')
    parser.add_argument(
        '--branches',
        nargs=2,
        default=('cnn', 'vit'),
        metavar=('CNN', 'VIT'),
        help="names of the two branches in this package's config (default: cnn vit)",
    )
    parser.add_argument('--config', help='check that the weights fit the model of this config')
    parser.add_argument('--force', action='store_true', help='overwrite DST')
    add_checkpoint_risk(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from mmmokd.cli.config import load_config
    from mmmokd.transfer.official import convert_from_official

    config = load_config(args.config) if args.config else None
    notes = convert_from_official(
        args.src, args.dst, tuple(args.branches), config, overwrite=args.force
    )
    print('\n'.join([*notes, f'wrote {args.dst}']))


if __name__ == '__main__':
    run_tool(main)
