# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Report whether a branch's weights fit the model of a downstream config, and how it takes them.

    python tools/model_converters/check_transfer.py CHECKPOINT BRANCH CONFIG [--network student] \\
        [--cfg-options KEY=VALUE ...]

The report of keys goes to stderr; on stdout come the values for --cfg-options, one a line, that make
CONFIG start from the branch. Ends with an error if a weight of the model's part is not matched.
"""

__mmmokd_reads_arguments_first__ = True  # see mmmokd/__init__.py

import argparse
import sys

from mmmokd.cli.run_tool import add_cfg_options, add_checkpoint_risk, run_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Report whether a branch's weights fit the model of a downstream config"
    )
    parser.add_argument('checkpoint', help="checkpoint of MOKD, this package's or the authors'")
    parser.add_argument('branch', help='name of the branch')
    parser.add_argument('config', help='config of mmpretrain, mmdet or mmseg')
    parser.add_argument(
        '--network',
        choices=['teacher', 'student'],
        help='network of the branch (default: the teacher, or the student of one without)',
    )
    add_cfg_options(parser)
    add_checkpoint_risk(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from mmmokd.cli.config import load_config
    from mmmokd.transfer.downstream import plan_transfer

    cfg = load_config(args.config, args.cfg_options)
    report, options = plan_transfer(args.checkpoint, args.branch, cfg, args.network)
    print('\n'.join(report), file=sys.stderr)
    print('\n'.join(f'{key}={value}' for key, value in options.items()))


if __name__ == '__main__':
    run_tool(main)
