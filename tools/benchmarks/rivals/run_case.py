# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Train from the newest checkpoint and evaluate the last one, as the tools do, in one process.

    python tools/benchmarks/rivals/run_case.py CONFIG CHECKPOINT [ARGUMENT OF tools/evaluate.py ...]

CHECKPOINT is the training's last one, in the folder to write to; if it exists, it is evaluated.
"""

import runpy
import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[2]


def run_tool(name: str, *arguments: str | Path) -> None:
    """Run a tool in this process, as from the command line.

    Args:
        name (str): Its file in ``tools/``.
        *arguments (str | Path): Its arguments.
    """
    sys.argv = [str(TOOLS / name), *map(str, arguments)]
    runpy.run_path(sys.argv[0], run_name='__main__')


def main(config: str, checkpoint: str, *arguments: str) -> None:
    """Train and evaluate.

    Args:
        config (str): File of the config.
        checkpoint (str): The last checkpoint of the training.
        *arguments (str): Further ones for tools/evaluate.py.
    """
    folder = Path(checkpoint).parent
    if not Path(checkpoint).is_file():
        run_tool('train.py', config, '--work-dir', folder, '--resume', 'auto')
    out = folder / 'evaluation'
    run_tool('evaluate.py', config, checkpoint, '--work-dir', out, '--out', out, *arguments)


if __name__ == '__main__':
    main(*sys.argv[1:])
