# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The quick start's folder, and the three trainings in it. Light to import."""

import argparse
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mmmokd.cli.run_script import run_script
from mmmokd.utils.atomic import atomic_write
from mmmokd.utils.errors import ConfigError

if TYPE_CHECKING:
    from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[2]
# Evaluates what it has trained in the process that trained it: one start fewer.
TRAIN_AND_EVALUATE = ROOT / 'tools' / 'benchmarks' / 'rivals' / 'run_case.py'
CONFIGS = ROOT / 'configs' / 'mokd' / 'quickstart'
OUT = ROOT / 'work_dirs' / 'quickstart'
RECORD = 'quickstart.json'  # what was asked for
REPORT = ('results.md', 'results.json', 'quickstart.png')
PAIR = 'cnn-vit'
PROBE = Path('evaluation', 'results.json')  # of tools/evaluate.py, in the folder of a run
# For tools/evaluate.py. A probe of feature maps takes longer than that of pooled features, three
# times as long in all.
EVALUATION = ('--knn', 20, '--cfg-options', 'val_cfg.maps=False', 'test_cfg.maps=False')
RUNS = {'CNN alone': 'cnn', 'ViT alone': 'vit', 'together': PAIR}
# Of mmengine's log: how far it is, and warnings of images and of collapsed branches.
PROGRESS = re.compile(r'- (INFO - (?:Epoch\((?:train|val)|resum).*|WARNING - (?:Branch|.*image).*)')


class Task(NamedTuple):
    """Common settings of the three trainings.

    Attributes:
        kind (str): End of the config's name.
        labeled (bool): Whether there are classes for k-NN.
        options (dict[str, Any]): Overrides of the configs, by dotted key.
    """

    kind: str
    labeled: bool
    options: dict[str, Any]

    def load(self, names: str) -> 'Config':
        """Load the config of a training, named as in ``RUNS``."""
        from mmmokd.cli.config import load_config

        branches = PAIR.split('-')
        alone = {f'model.branches.{b}': None for b in branches if b not in names.split('-')}
        return load_config(CONFIGS / f'mokd_{PAIR}_{self.kind}.py', {**self.options, **alone})


def default_out(images: Path | None, seed: int) -> Path:
    """Find the default output folder of a quick start.

    Args:
        images (Path, optional): Folder of images, None for those of the repository.
        seed (int): Of the runs.

    Returns:
        Path: A folder whose name needs no quotes in commands.
    """
    name = 'fashion_mnist' if images is None else re.sub(r'[^\w.-]+', '-', images.name) or 'images'
    return OUT / f'{name}_seed{seed}'


def open_record(out: Path, args: argparse.Namespace, count: int | None) -> dict[str, Any]:
    """Decide whether a folder is begun, resumed, or not touched.

    Args:
        out (Path): The folder; must exist, and be locked.
        args (argparse.Namespace): ``images``, ``seed`` and ``epochs``, None where not given, and
            ``resume`` and ``overwrite``.
        count (int, optional): Number of files in ``images``.

    Returns:
        dict: What the quick start in the folder is of: ``images``, ``count``, ``seed``, ``epochs``.

    Raises:
        ConfigError: If the folder holds something else than is asked for.
    """
    given = dict(images=args.images and str(args.images), count=count)
    given.update(seed=args.seed, epochs=args.epochs)
    asked = dict(given, seed=args.seed or 0)
    file = out / RECORD
    found = json.loads(file.read_text(encoding='utf-8')) if file.is_file() else None
    others = [path for path in out.iterdir() if not path.name.startswith('.')]
    if found is None and (args.resume or others):
        raise ConfigError(f'{out} holds no quick start: name another folder by --out')
    if found is not None and not args.overwrite:
        wanted = {k: v for k, v in given.items() if v is not None} if args.resume else asked
        differing = [f'{k} {found[k]}, not {v}' for k, v in wanted.items() if found[k] != v]
        if differing:
            raise ConfigError(
                f'{out} holds a quick start of other settings ({"; ".join(differing)}): continue it '
                'with its own with --resume, replace it with --overwrite, or name another folder '
                'by --out'
            )
        return found
    for name in ('images', *RUNS.values()):
        shutil.rmtree(out / name, ignore_errors=True)
    for name in REPORT:
        (out / name).unlink(missing_ok=True)
    with atomic_write(file) as part:
        part.write_text(json.dumps(asked, indent=2) + '\n', encoding='utf-8')
    return asked


def train(work_dir: Path, task: Task) -> None:
    """Train from the newest checkpoint and evaluate the last one, as far as that is not done.

    It runs tools/train.py and, where there are labels, tools/evaluate.py, as a user would.

    Args:
        work_dir (Path): Folder to write to, named as in ``RUNS``.
        task (Task): What to train on.

    Raises:
        RunStoppedError: If it fails.
    """
    cfg = task.load(work_dir.name)
    last = work_dir / f'epoch_{cfg.train_cfg.max_epochs}.pth'
    if last.is_file() and task.labeled and not is_validated(work_dir, cfg.train_cfg.max_epochs):
        last.unlink()  # a run resumed from it would have nothing left to do
    if not last.is_file():
        shutil.rmtree((work_dir / PROBE).parent, ignore_errors=True)  # of another checkpoint
    elif not task.labeled or (work_dir / PROBE).is_file():
        print('finished by an earlier call')
        return
    else:
        print('trained by an earlier call: the linear probe is left')
    work_dir.mkdir(exist_ok=True)
    # The whole config, not --cfg-options, which would split a folder's name at its commas.
    config = work_dir / Path(cfg.filename).name
    with atomic_write(config) as part:
        part.write_text(cfg.pretty_text, encoding='utf-8')
    if task.labeled:
        command = [TRAIN_AND_EVALUATE, config, last, *EVALUATION]
    else:
        train_py = ROOT / 'tools' / 'train.py'
        command = [train_py, config, '--work-dir', work_dir, '--resume', 'auto', '--no-validate']
    output = 'evaluation.txt' if last.is_file() else 'output.txt'
    run_script(command, work_dir / output, show=PROGRESS)


def is_validated(work_dir: Path, epoch: int) -> bool:
    """Check whether a run was not stopped between the checkpoint of an epoch and its validation.

    Args:
        work_dir (Path): The run's folder.
        epoch (int): Number of the epoch.

    Returns:
        bool: True if the log has its accuracies.
    """
    from mmmokd.visualization import read_scalars

    return any(points[-1][0] == epoch for points in read_scalars(work_dir).val.values())


def is_reported(out: Path) -> bool:
    """Check whether a folder has a report, and all that is in it today.

    Args:
        out (Path): The folder.

    Returns:
        bool: False as well for a report of an earlier version, without costs and linear probes.
    """
    if not all((out / name).is_file() for name in REPORT):
        return False
    return 'epoch_seconds' in json.loads((out / REPORT[1]).read_text(encoding='utf-8'))


def show_report(out: Path) -> str:
    """The tables of a finished quick start, and where its files are.

    Args:
        out (Path): The folder.

    Returns:
        str: Some lines.
    """
    table = (out / REPORT[0]).read_text(encoding='utf-8')
    return f'\n{table}\ntable: {out / REPORT[0]}\nimage: {out / REPORT[2]}'
