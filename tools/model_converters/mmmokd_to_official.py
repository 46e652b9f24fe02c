# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Convert a checkpoint of this package into the format of the authors' official MOKD.

python tools/model_converters/mmmokd_to_official.py SRC DST [--branches CNN VIT] [--force]
"""

__mmmokd_reads_arguments_first__ = True  # see mmmokd/__init__.py

import argparse

from mmmokd.cli.run_tool import add_checkpoint_risk, run_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Convert a checkpoint of this package into the format of the authors' MOKD"
    )
    parser.add_argument('src', help='checkpoint with the branches of a ResNet and of a ViT')
    parser.add_argument('dst', help='file to write')
    parser.add_argument(
        '--branches',
        nargs=2,
        default=('cnn', 'vit'),
        metavar=('CNN', 'VIT'),
        help='names of the branches of the ResNet and of the ViT (default: cnn vit)',
    )
    parser.add_argument('--force', action='store_true', help='overwrite DST')
    add_checkpoint_risk(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from mmmokd.transfer.official import convert_to_official

    notes = convert_to_official(args.src, args.dst, tuple(args.branches), overwrite=args.force)
    print('\n'.join([*notes, f'wrote {args.dst}']))


if __name__ == '__main__':
    run_tool(main)
