# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Pretrain a small CNN and a small ViT, each alone and both together, and compare.

    bash tools/quickstart.sh [PICTURES] [--out DIR] [--seed N] [--epochs N]

Without PICTURES: the Fashion-MNIST subset in resources/. Started again, it goes on where it was.
"""

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from mmmokd.apis import run_tool
from mmmokd.apis.config import load_config
from mmmokd.apis.quickstart_data import (
    count_pictures,
    shrink_folder,
    unpack_fashion_mnist,
)
from mmmokd.apis.quickstart_report import RUNS, raw_pixel_baseline, write_report

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'configs' / 'mokd' / 'quickstart'
FASHION_MNIST = ROOT / 'resources' / 'fashion_mnist'
OUT = ROOT / 'work_dirs' / 'quickstart'
MIN_PICTURES = 32
# A small folder is passed over more often: so many pictures are seen by each run.
PICTURES_SEEN = 60_000
MAX_EPOCHS = 200
VALIDATIONS = 6
BATCH_SIZE = 64
INTERVAL = 39  # iterations between two lines of the log, as the configs have it
# Of mmengine's log: how far it is, and every warning of this package.
PROGRESS = re.compile(r'- ((?:INFO|WARNING) - (?:Epoch|Branch|resum|.*picture).*)')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='bash tools/quickstart.sh',
        description='Pretrain a CNN and a ViT, alone and together, in minutes on a CPU',
    )
    parser.add_argument(
        'pictures',
        nargs='?',
        type=Path,
        help='a folder of pictures; at least two class folders in it give k-NN accuracies '
        '(default: the Fashion-MNIST subset of the repository)',
    )
    parser.add_argument(
        '--out', type=Path, help='folder to write to (default: work_dirs/quickstart/NAME_seedN)'
    )
    parser.add_argument('--seed', type=int, default=0, help='of the runs (default: %(default)s)')
    parser.add_argument(
        '--epochs', type=int, help='length of each run (default: fits the number of pictures)'
    )
    return parser.parse_args()


def own_pictures(args: argparse.Namespace, out: Path) -> tuple[dict[str, Any], bool]:
    """Copy a folder, small; the options that train on the copies, and whether there are classes."""
    data = out / 'pictures'
    labelled = shrink_folder(args.pictures, data, args.seed)
    count = count_pictures(data / 'train')
    if count < MIN_PICTURES:
        raise ValueError(
            f'{args.pictures} has {count} pictures to train on; at least {MIN_PICTURES} are needed'
        )
    epochs = args.epochs or min(MAX_EPOCHS, max(1, PICTURES_SEEN // count))
    batch_size = min(BATCH_SIZE, count // 2)
    interval = min(INTERVAL, count // batch_size)
    options = {
        'train_cfg.max_epochs': epochs,
        'train_cfg.val_interval': max(1, epochs // VALIDATIONS),
        'train_dataloader.batch_size': batch_size,
        'default_hooks.logger.interval': interval,
        'default_hooks.collapse_monitor.interval': interval,
        'train_dataloader.dataset.data_root': str(data / 'train'),
    }
    if labelled:
        options['val_dataloader.dataset.data_root'] = str(data / 'test')
        options['val_cfg.bank_dataloader.dataset.data_root'] = str(data / 'train')
    return options, labelled


def train(config: Path, work_dir: Path, options: dict[str, Any], validate: bool) -> None:
    """Run tools/train.py as a user would; show its progress, keep all it says in a file."""
    command = [sys.executable, '-u', ROOT / 'tools' / 'train.py', config, '--work-dir', work_dir]
    command += ['--resume', 'auto'] + ([] if validate else ['--no-validate'])
    command += ['--cfg-options', *(f'{key}={value}' for key, value in options.items())]
    work_dir.mkdir(parents=True, exist_ok=True)
    output = work_dir / 'output.txt'
    with (
        output.open('w', encoding='utf-8') as file,
        subprocess.Popen(
            [str(part) for part in command],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process,
    ):
        for line in process.stdout:
            file.write(line)
            if shown := PROGRESS.search(line):
                print(shown[1], flush=True)
    if process.returncode:
        end = '\n'.join(output.read_text(encoding='utf-8').splitlines()[-15:])
        raise ValueError(
            f'training ended with status {process.returncode}:\n{end}\n(all of it: {output})'
        )


def main() -> None:
    args = parse_args()
    start = time.time()
    name = 'fashion_mnist' if args.pictures is None else args.pictures.expanduser().resolve().name
    out = (args.out or OUT / f'{name}_seed{args.seed}').resolve()
    if args.pictures is None:
        unpack_fashion_mnist(FASHION_MNIST, OUT / 'data' / 'fashion_mnist')
        kind, labelled = 'fashion-mnist', True
        options = {'train_cfg.max_epochs': args.epochs} if args.epochs else {}
    else:
        kind = 'folder'
        options, labelled = own_pictures(args, out)
    options['randomness.seed'] = args.seed
    for i, (run, names) in enumerate(RUNS.items()):
        print(f'\n=== run {i + 1} of {len(RUNS)}: {run} (writes to {out / names}) ===', flush=True)
        train(CONFIGS / f'mokd_{names}_{kind}.py', out / names, options, labelled)

    cfg = load_config(CONFIGS / f'mokd_cnn-vit_{kind}.py', options)
    raw = raw_pixel_baseline(cfg) if labelled else None
    print(write_report(out, cfg, raw))
    print(f'took {(time.time() - start) / 60:.1f} minutes')


if __name__ == '__main__':
    run_tool(main)
