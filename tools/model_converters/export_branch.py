# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Export a branch's backbone to another library.

    python tools/model_converters/export_branch.py CHECKPOINT OUT --to LIBRARY [--branch NAME] [...]

Builds the library's model, loads the branch into it and reports matched, missing and unexpected keys.
Ends with an error, and writes nothing, unless all of the model's weights are matched and it computes
the branch's features.
"""

__mmmokd_reads_arguments_first__ = True  # see mmmokd/__init__.py

import argparse

from mmmokd.cli.run_tool import add_checkpoint_risk, run_tool
from mmmokd.transfer.libraries.names import EXPORT_TAKES


def parse_args() -> argparse.Namespace:
    takes = [f'  {library:<13} {what}' for library, what in EXPORT_TAKES.items()]
    parser = argparse.ArgumentParser(
        description="Export a branch's backbone to another library",
        epilog='\n'.join(['what each library takes:', *takes]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('checkpoint', help="checkpoint of MOKD, this package's or the authors'")
    parser.add_argument(
        'out',
        help='file to write, *.safetensors for that format; '
        'for transformers a folder, for detectron2 *.pkl',
    )
    parser.add_argument(
        '--to', required=True, choices=list(EXPORT_TAKES), help='library to export to'
    )
    parser.add_argument('--branch', help='name of the branch (default: the only one)')
    parser.add_argument(
        '--network',
        choices=['teacher', 'student'],
        default='teacher',
        help='network of the branch (default: %(default)s)',
    )
    parser.add_argument(
        '--config',
        help='config that the checkpoint was trained with (default: the one it keeps)',
    )
    parser.add_argument(
        '--target-config',
        metavar='CONFIG',
        help="mmpretrain's, mmdet's or mmseg's config whose backbone is to take the weights",
    )
    parser.add_argument(
        '--img-size',
        type=int,
        metavar='PIXELS',
        help="side of the images to resize a ViT's position embedding for, or that a Swin "
        'Transformer is to take (default: as trained)',
    )
    parser.add_argument('--force', action='store_true', help='overwrite OUT')
    add_checkpoint_risk(parser)
    args = parser.parse_args()
    if args.img_size is not None and args.target_config is not None:
        parser.error('--img-size: the size is that of --target-config')
    return args


def main() -> None:
    args = parse_args()
    from mmmokd.transfer.export import export_branch

    lines = export_branch(
        args.checkpoint,
        args.out,
        args.to,
        branch=args.branch,
        network=args.network,
        config=args.config,
        target_config=args.target_config,
        img_size=args.img_size,
        overwrite=args.force,
    )
    print('\n'.join(lines))


if __name__ == '__main__':
    run_tool(main)
