# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import zipfile
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from torch import nn

from mmmokd.engine.hooks.checkpoint_hook import POINTER
from mmmokd.utils.errors import CheckpointError
from mmmokd.utils.state_dict import load_state_dict_strict, name_some
from mmmokd.weights.files import read_checkpoint

RESUME_KEYS = ('meta', 'message_hub', 'optimizer')


def load_checkpoint_strict(
    model: nn.Module, path: str | Path, prefix: str = '', map_location: str = 'cpu'
) -> dict[str, Any]:
    """Load a checkpoint's weights into a model, every one of whose weights must be given.

    Args:
        model (nn.Module): The model.
        path (str | Path): The checkpoint, a local file.
        prefix (str): Load the weights below this name only, for example
            ``'branches.cnn.teacher.backbone.'``. Defaults to '', all of them.
        map_location (str): Device to read to. Defaults to 'cpu'.

    Returns:
        dict: The checkpoint's contents.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it cannot be read safely, has nothing below ``prefix``, or lacks a weight of
            the model.
    """
    checkpoint = read_checkpoint(path, map_location)
    everything = checkpoint['state_dict']
    weights = {
        key[len(prefix) :]: value for key, value in everything.items() if key.startswith(prefix)
    }
    if not weights:
        raise CheckpointError(
            f'checkpoint {path} has nothing below {prefix!r}, but {name_some(list(everything))}'
        )
    unexpected = load_state_dict_strict(model, weights, f'checkpoint {path}')
    if unexpected:
        print_log(
            f'{len(unexpected)} weights of {path} are not in {type(model).__name__} and were left '
            f'out: {name_some(unexpected)}',
            logger='current',
            level=30,
        )
    return checkpoint


def check_resumable(path: str | Path) -> None:
    """Make sure that a training run can continue from a checkpoint.

    Args:
        path (str | Path): The checkpoint, a local file.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it cannot be read safely or holds no state of training.
    """
    checkpoint = read_checkpoint(path)
    lacks = [key for key in RESUME_KEYS if key not in checkpoint]
    if lacks:
        raise CheckpointError(
            f'cannot resume from checkpoint {path}: it has no {" and no ".join(lacks)}. To begin '
            f'with its weights, give --cfg-options load_from={path} instead of --resume'
        )


def find_resume_checkpoint(work_dir: str | Path) -> Path | None:
    """The newest checkpoint in a work_dir that is complete.

    A run that was killed as it wrote a checkpoint leaves part of a file, and a ``last_checkpoint``
    that names the one before it, or that is itself cut short. So: the file that ``last_checkpoint``
    names, if it is complete, else the newest complete ``epoch_*.pth`` or ``iter_*.pth``.

    Args:
        work_dir (str | Path): The run's folder; need not exist.

    Returns:
        Path | None: The checkpoint; None if the folder holds none at all.

    Raises:
        CheckpointError: If the folder holds checkpoints and none is complete.
    """
    work_dir = Path(work_dir)
    candidates = [*work_dir.glob('epoch_*.pth'), *work_dir.glob('iter_*.pth')]
    candidates.sort(key=lambda file: file.stat().st_mtime, reverse=True)
    pointer = work_dir / POINTER
    if pointer.is_file():
        # By name alone: the folder may have been moved since. It may also be outside (out_dir).
        named = Path(pointer.read_text().strip())
        candidates = [work_dir / named.name, named, *candidates]
    present = [file for file in candidates if file.is_file()]
    for file in present:
        if zipfile.is_zipfile(file):
            return file
        print_log(f'{file} is cut short and left out', logger='current', level=30)
    if present:
        raise CheckpointError(
            f'none of the {len(set(present))} checkpoints in {work_dir} is complete'
        )
    return None
