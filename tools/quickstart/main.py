# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Pretrain a small CNN and a small ViT, each alone and both together, and compare.

    bash tools/quickstart.sh [IMAGES] [--out DIR] [--seed N] [--epochs N]

Without IMAGES: the Fashion-MNIST subset in resources/. Started again, it continues where it was; a
run of other images, other settings or other code is kept aside and starts from scratch.
"""

__mmmokd_reads_arguments_first__ = True  # see mmmokd/__init__.py

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from mmengine.config import Config
from mmengine.logging import MMLogger
from quickstart_runs import (
    claim_run,
    drop_unusable_checkpoints,
    hash_code,
    hash_files,
    hash_text,
    lock,
    read_record,
)

from mmmokd.cli.run_tool import run_tool
from mmmokd.cli.stop_signals import this_command, where
from mmmokd.utils.atomic import atomic_write

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / 'configs' / 'mokd' / 'quickstart'
FASHION_MNIST = ROOT / 'resources' / 'fashion_mnist'
OUT = ROOT / 'work_dirs' / 'quickstart'
MIN_IMAGES = 32
# A small folder is passed over more often: so many images are seen by each run.
IMAGES_SEEN = 60_000
MAX_EPOCHS = 200
VALIDATIONS = 6
BATCH_SIZE = 64
INTERVAL = 39  # iterations between two lines of the log, as the configs have it
# Of mmengine's log: how far it is, and warnings of images and of collapsed branches.
PROGRESS = re.compile(r'- (INFO - (?:Epoch|resum).*|WARNING - (?:Branch|.*image).*)')


class Task(NamedTuple):
    """What the three runs have in common.

    Attributes:
        kind (str): End of their configs' names.
        labeled (bool): Whether there are classes for k-NN.
        images (str): Hash of the images.
        settings (dict[str, Any]): Overrides of the configs, by dotted key.
        places (dict[str, str]): More of them: where the images are.
    """

    kind: str
    labeled: bool
    images: str
    settings: dict[str, Any]
    places: dict[str, str]

    def path(self, names: str) -> Path:
        """The config file of a run, named as in ``RUNS``."""
        return CONFIGS / f'mokd_{names}_{self.kind}.py'

    def load(self, names: str) -> Config:
        """The config of a run."""
        from mmmokd.cli.config import load_config

        return load_config(self.path(names), {**self.settings, **self.places})

    def record(self, names: str) -> dict[str, Any]:
        """What makes a run this one."""
        from mmmokd.cli.config import load_config

        config = hash_text(repr(load_config(self.path(names)).to_dict()))
        return dict(config=config, code=hash_code(), images=self.images, **self.settings)


def read_path(text: str) -> Path:
    """A path of a command line, absolute."""
    return Path(text).expanduser().resolve()


def at_least(smallest: int) -> Callable[[str], int]:
    """A reader of a whole number from a command line."""

    def read(text: str) -> int:
        if not text.removeprefix('-').isdecimal() or int(text) < smallest:
            raise argparse.ArgumentTypeError(f'{text!r} is no whole number from {smallest} up')
        return int(text)

    return read


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
        help='folder to write to (default: one of its own in work_dirs/quickstart)',
    )
    parser.add_argument(
        '--seed', type=at_least(0), default=0, help='of the runs (default: %(default)s)'
    )
    parser.add_argument(
        '--epochs',
        type=at_least(1),
        help='length of each run (default: fits the number of images)',
    )
    return parser.parse_args()


def output_folder(images: Path | None, seed: int) -> Path:
    """Where a quick start writes, if it is not said: a folder for each of any name."""
    if images is None:
        return OUT / f'fashion_mnist_seed{seed}'
    name = re.sub(r'[^\w.-]+', '-', images.name)  # to be typed in commands
    return OUT / f'{name}-{hash_text(str(images))[:8]}_seed{seed}'


def fashion_mnist(args: argparse.Namespace) -> Task:
    """Unpack the repository's images."""
    from quickstart_data import unpack_fashion_mnist

    data = OUT / 'data' / 'fashion_mnist'
    unpack_fashion_mnist(FASHION_MNIST, data)
    settings = {'randomness.seed': args.seed}
    if args.epochs:
        settings['train_cfg.max_epochs'] = args.epochs
    loaders = ('train_dataloader', 'val_dataloader', 'val_cfg.bank_dataloader')
    places = {f'{loader}.dataset.data_root': str(data) for loader in loaders}
    return Task('fashion-mnist', True, hash_files(data, '*-ubyte'), settings, places)


def own_images(args: argparse.Namespace, paths: list[Path], data: Path) -> Task:
    """Copy a folder, small."""
    from quickstart_data import count_images, shrink_folder

    labeled = shrink_folder(paths, args.images, data, args.seed)
    count, held_out = count_images(data / 'train'), count_images(data / 'test')
    if count < MIN_IMAGES:
        held = f', of which {held_out} are kept for testing: {count} are left to train on'
        raise ValueError(
            f'{args.images} has {count + held_out} readable images{held if held_out else ""}; '
            f'at least {MIN_IMAGES} are needed'
        )
    epochs = args.epochs or min(MAX_EPOCHS, max(1, IMAGES_SEEN // count))
    batch_size = min(BATCH_SIZE, count // 2)
    interval = min(INTERVAL, count // batch_size)
    settings = {
        'randomness.seed': args.seed,
        'train_cfg.max_epochs': epochs,
        'train_cfg.val_interval': max(1, epochs // VALIDATIONS),
        'train_dataloader.batch_size': batch_size,
        'default_hooks.logger.interval': interval,
        'default_hooks.collapse_monitor.interval': interval,
    }
    places = {'train_dataloader.dataset.data_root': str(data / 'train')}
    if labeled:
        places['val_dataloader.dataset.data_root'] = str(data / 'test')
        places['val_cfg.bank_dataloader.dataset.data_root'] = str(data / 'train')
    # The copies' hash, of up to 10,000 files, was just taken.
    return Task('folder', labeled, read_record(data)['copies'], settings, places)


def train(work_dir: Path, task: Task, lock_file: TextIO) -> None:
    """Run tools/train.py as a user would; show its progress, keep all it says in a file."""
    claim_run(work_dir, task.record(work_dir.name))
    cfg = task.load(work_dir.name)
    drop_unusable_checkpoints(work_dir, cfg, task.labeled)
    # Whole, not as --cfg-options: what is trained is what was recorded, any folder's name included.
    config = work_dir / Path(cfg.filename).name
    with atomic_write(config) as part:
        part.write_text(cfg.pretty_text, encoding='utf-8')
    command = [sys.executable, '-u', ROOT / 'tools' / 'train.py', config, '--work-dir', work_dir]
    command += ['--resume', 'auto'] + ([] if task.labeled else ['--no-validate'])
    output = work_dir / 'output.txt'
    with (
        output.open('w', encoding='utf-8') as file,
        subprocess.Popen(
            [str(part) for part in command],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            pass_fds=[lock_file.fileno()],  # should it outlive this process, it still writes there
        ) as process,
    ):
        try:
            for line in process.stdout:
                file.write(line)
                if shown := PROGRESS.search(line):
                    print(shown[1], flush=True)
        except (
            BaseException
        ):  # Ctrl-C reaches the training, too; what ends this process alone does not
            process.terminate()
            raise
    if process.returncode:
        end = '\n'.join(output.read_text(encoding='utf-8').splitlines()[-15:])
        raise ValueError(
            f'training ended with status {process.returncode}:\n{end}\n(all of it: {output})'
        )


def main() -> None:
    args = parse_args()
    from quickstart_data import check_apart, find_images
    from quickstart_report import REPORT, RUNS, raw_pixel_baseline, write_report

    start = time.time()
    out = args.out or output_folder(args.images, args.seed)
    if args.images is not None:  # before anything is written
        for name in ('images', *RUNS.values()):
            check_apart(args.images, out / name)
        paths = find_images(args.images)
    with lock(out) as lock_file:
        if args.images is None:
            task = fashion_mnist(args)
        else:
            task = own_images(args, paths, out / 'images')
        for name in REPORT:  # it may be of other runs than those that follow
            (out / name).unlink(missing_ok=True)
        for i, (run, names) in enumerate(RUNS.items()):
            print(
                f'\n=== run {i + 1} of {len(RUNS)}: {run} (writes to {out / names}) ===', flush=True
            )
            train(out / names, task, lock_file)
        cfg = task.load('cnn-vit')
        MMLogger.get_current_instance().setLevel('WARNING')  # the number of copies, once more
        raw = raw_pixel_baseline(cfg) if task.labeled else None
        print(write_report(out, cfg, raw))
    print(f'this call took {(time.time() - start) / 60:.1f} minutes')


if __name__ == '__main__':
    with where(lambda: f'; resume with: {this_command(resume=False)}'):
        run_tool(main)
