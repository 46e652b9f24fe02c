# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Export a branch's backbone to another library.

    python tools/model_converters/export_branch.py CHECKPOINT OUT --to LIBRARY [--branch NAME] [...]

Builds the library's model, loads the branch into it and reports matched, missing and unexpected keys.
Ends with an error, and writes nothing, unless all of the model's weights are matched and it computes
the branch's features. ``--custom-imports MODULE`` adds the libraries that a module of yours registers.
"""

__mmmokd_reads_arguments_first__ = True  # see mmmokd/__init__.py

import argparse
from importlib import import_module

from mmmokd.cli.run_tool import add_checkpoint_risk, run_tool
from mmmokd.transfer.libraries import LIBRARIES


def import_libraries() -> None:
    """Import what ``--custom-imports`` names, before the choices of ``--to`` are shown."""
    parser = argparse.ArgumentParser(add_help=False)
    add_custom_imports(parser)
    for module in parser.parse_known_args()[0].custom_imports:
        try:
            import_module(module)
        except ImportError as error:
            parser.error(f'--custom-imports {module}: {error}. Is its folder in PYTHONPATH?')


def add_custom_imports(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--custom-imports',
        action='append',
        default=[],
        metavar='MODULE',
        help='module to import first, which registers further libraries; may be repeated',
    )


def parse_args() -> argparse.Namespace:
    libraries = LIBRARIES.module_dict
    takes = [f'  {name:<13} {library.takes}' for name, library in libraries.items()]
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
    parser.add_argument('--to', required=True, choices=list(libraries), help='library to export to')
    parser.add_argument('--branch', help='name of the branch (default: the only one)')
    parser.add_argument(
        '--network',
        choices=['teacher', 'student'],
        help='network of the branch (default: the teacher, or the student of one without)',
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
    add_custom_imports(parser)
    add_checkpoint_risk(parser)
    args = parser.parse_args()
    if args.img_size is not None and args.target_config is not None:
        parser.error('--img-size: the size is that of --target-config')
    return args


def main() -> None:
    import_libraries()
    args = parse_args()
    from mmmokd.cli.config import load_config
    from mmmokd.transfer.export import export_branch

    lines = export_branch(
        args.checkpoint,
        args.out,
        args.to,
        branch=args.branch,
        network=args.network,
        config=load_config(args.config) if args.config else None,
        target_config=load_config(args.target_config) if args.target_config else None,
        img_size=args.img_size,
        overwrite=args.force,
    )
    print('\n'.join(lines))


if __name__ == '__main__':
    run_tool(main)
