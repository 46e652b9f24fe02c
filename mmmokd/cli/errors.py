# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Which errors are mistakes of who started a command, and what is said of them."""

import errno
import io
import re
import sys
import traceback
from pathlib import Path
from types import FrameType

from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.registry.build_functions import build_from_cfg, build_scheduler_from_cfg
from mmengine.runner import runner as mmengine_runner

import mmmokd
from mmmokd.cli.config_keys import describe_place, keys_of_type, known_keys, nearest
from mmmokd.engine.runners.shared_memory import explain_exhausted
from mmmokd.utils import RunStoppedError
from mmmokd.utils.atomic import explain_os_error
from mmmokd.utils.config_tree import iter_dicts, type_name
from mmmokd.utils.errors import UserError

# What this package raises, with a message for people, where what it was given is wrong.
USER_ERRORS = (
    ValueError,
    FileNotFoundError,
    NotADirectoryError,
    FloatingPointError,
    RunStoppedError,
)
PACKAGE = Path(mmmokd.__file__).resolve().parent
# Of a disk, whoever writes to it.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
# What datasets of other libraries raise where their files are not as they should be. A RuntimeError
# may as well be of a GPU or of other processes, unless a line of theirs raised it.
DATA_ERRORS = (OSError, AssertionError)
DATASET_MODULES = ('mmpretrain.datasets', 'mmdet.datasets', 'mmseg.datasets')
# What only some configs need, and how to get it.
OPTIONAL = {
    'mlflow': 'bash tools/setup_env.sh loggers, or pip install mlflow',
    'mmdet': 'bash tools/setup_env.sh det',
    'mmseg': 'bash tools/setup_env.sh seg',
    'pycocotools': 'bash tools/setup_env.sh det, or pip install pycocotools',
    'tensorboard': 'pip install tensorboard',
    'timm': 'bash tools/setup_env.sh optional, or pip install timm',
    'transformers': "pip install 'transformers>=4.53,<5'",
    'wandb': 'bash tools/setup_env.sh loggers, or pip install wandb',
}
IN_WORKER = re.compile(r'Caught \w+ in DataLoader worker process \d+\.\n')
FRAME = re.compile(r'^ +File "(.+)", line \d+, in .*(?:\n {4}(.+))?', re.MULTILINE)
BUILDERS = (build_from_cfg.__code__, build_scheduler_from_cfg.__code__)
UNEXPECTED = re.compile(r"([\w.<>]+)\(\) got an unexpected keyword argument '(\w+)'")
MISSING = re.compile(r'[\w.<>]+\(\) missing \d+ required [\w-]+ arguments?: (.+)')


def is_user_error(error: BaseException) -> bool:
    """Whether an error says all that its reader needs: one of this package about its input.

    Args:
        error (BaseException): As caught.

    Returns:
        bool: True if it is a ``RunStoppedError``, or of another of ``USER_ERRORS`` and was raised
        by a line of this package or of the command itself, also in a worker of a dataloader; one
        that rises from a library or from what is built in, or of another type, may be a fault to be
        traced.
    """
    if not isinstance(error, USER_ERRORS):
        return False
    if isinstance(error, UserError):
        return True
    if IN_WORKER.match(str(error)):
        frames = FRAME.findall(str(error))
    else:
        frames = traceback.extract_tb(error.__traceback__)
        frames = [(frame.filename, frame.line or '') for frame in frames]
    if not frames:
        return False
    file, line = frames[-1]
    # int(), zip() and the like leave no frame; a file that open() does not find is a mistake.
    if not isinstance(error, OSError) and not line.startswith('raise'):
        return False
    raised_in = Path(file).resolve()
    command = getattr(sys.modules['__main__'], '__file__', None) or sys.executable
    return PACKAGE in raised_in.parents or raised_in == Path(command).resolve()


def explain_error(error: BaseException) -> str | None:
    """What to say of an error to who started a command.

    Besides :func:`is_user_error`, these are mistakes in the config that come to light as an object
    is built from it: an argument that a class does not take or lacks, a type that is not
    registered, data that a dataset of another library does not find. So is a full disk, or one that
    is mounted to be read only, whoever writes to it.

    Args:
        error (BaseException): As caught.

    Returns:
        str, optional: One message; None if the error may be a fault to be traced.
    """
    if isinstance(error, ImportError):
        return _explain_import(error)
    if message := explain_exhausted(error):
        return message
    if is_user_error(error):
        text = str(error)
        wrapped = IN_WORKER.match(text)
        return text.rpartition(f'{type(error).__name__}: ')[2].rstrip() if wrapped else text
    try:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            return explain_os_error(error, error.filename or _file_in_use(error))
        return _explain_build(error)
    except Exception:  # what fails here must not hide the error itself
        return None


def _file_in_use(error: OSError) -> str | None:
    """The file that was being written to, of which an error names only what it opens."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        for value in frame.f_locals.values():
            if isinstance(value, io.IOBase) and isinstance(getattr(value, 'name', None), str):
                return value.name
    return None


def _explain_import(error: ImportError) -> str | None:
    """A package that only some configs need, and that is not installed or broken."""
    while isinstance(error.__context__, ImportError):  # a library says it in its own words
        error = error.__context__
    text = str(error)
    names = [(error.name or '').partition('.')[0], *re.findall(r'[\w-]+', text)]
    for name in names:
        if name in OPTIONAL:
            return f'the config needs {name}, which cannot be imported ({text}): {OPTIONAL[name]}'
    return None


def _explain_build(error: BaseException) -> str | None:
    """A mistake in the config that came to light as an object was built from it."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    cfg = next((value for frame in frames for value in _configs(frame)), None)
    builds = [frame for frame in frames if frame.f_code in BUILDERS]
    if isinstance(error, TypeError):
        return _explain_argument(error, cfg, frames, builds)
    if isinstance(error, KeyError) and frames and frames[-1].f_code in BUILDERS:
        return _explain_type(error, cfg, frames[-1])
    is_of_dataset = isinstance(error, RuntimeError) and frames[-1].f_globals['__name__'].startswith(
        DATASET_MODULES
    )
    if isinstance(error, DATA_ERRORS) or is_of_dataset:
        return _explain_data(error, cfg, builds)
    return None


def _configs(frame: FrameType) -> list[Config]:
    return [value for value in frame.f_locals.values() if isinstance(value, Config)]


def _explain_argument(
    error: TypeError, cfg: Config | None, frames: list[FrameType], builds: list[FrameType]
) -> str | None:
    """An argument too many or too few, if it was the config that gave it, or did not."""
    unexpected, missing = UNEXPECTED.match(str(error)), MISSING.match(str(error))
    built = builds[-1].f_locals['cfg'] if builds else {}
    if missing and frames[-1].f_code in BUILDERS:
        return f'{_describe(cfg, built)} of the config lacks what it needs: {missing[1]}.'
    if not unexpected or cfg is None:
        return None
    key = unexpected[2]
    if frames[-1].f_code.co_filename == mmengine_runner.__file__:
        given = [node for _, node in iter_dicts(cfg._cfg_dict)]
    else:
        given = [built] if key in built else [node for _, node in iter_dicts(built)]
    sure, unsure = [], []
    for node in (node for node in given if key in node):
        path = _place(cfg, node)
        known = known_keys(cfg, path) if path else None
        if known is None and (node is built or not path):
            known = keys_of_type(cfg, node.get('type'))
        # What takes the key may hand it on to something that does not: a fault, if so.
        if known is None or key not in known:
            (unsure if known is None else sure).append((path, node, known or ()))
    if not sure and not unsure:
        return None
    path, node, known = (sure or unsure)[0]
    if not path:
        return f'{unexpected[1]} takes no {key}, which the config gives it.'
    return f'{describe_place(path, node)} of the config takes no {key}.{nearest(key, known)}'


def _explain_type(error: KeyError, cfg: Config | None, frame: FrameType) -> str | None:
    """A type that is not registered, or not there."""
    built, registry = frame.f_locals['cfg'], frame.f_locals['registry']
    if 'type' not in built:
        return f'a {registry.name} of the config has no `type`: {dict(built)}.'
    scope, _, name = str(built['type']).rpartition('.')
    node = registry.root.children.get(scope) if scope else registry
    names = set()
    while node is not None:
        names |= set(node.module_dict)
        node = node.parent
    return (
        f'{_describe(cfg, built)} of the config: no {registry.name} is registered as '
        f'{built["type"]!r}.{nearest(name, names)}'
    )


def _explain_data(error: Exception, cfg: Config | None, builds: list[FrameType]) -> str | None:
    """Files that are not as a dataset of another library expects them."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f'{error.strerror}: {error.filename!r}' if error.filename else error.strerror
    if not text or not builds or builds[-1].f_locals['registry'].name != DATASETS.name:
        return None
    built = builds[-1].f_locals['cfg']
    given = {key: built[key] for key in ('data_root', 'data_prefix', 'ann_file') if built.get(key)}
    named = ', '.join(f'{key}={value!r}' for key, value in given.items())
    return (
        f'{_describe(cfg, built)} of the config cannot use its data: {text.rstrip(".")}.'
        + f' It has {named}.' * bool(named)
    )


def _place(cfg: Config, node: dict) -> tuple[str, ...] | None:
    """Where in a config a dict stands, or else an equal one."""
    places = [place for place in iter_dicts(cfg._cfg_dict) if place[0]]
    same = (path for path, other in places if other is node)
    # Only then by value: arrays in a config refuse to be compared.
    return next(same, None) or next((path for path, other in places if other == node), None)


def _describe(cfg: Config | None, built: dict) -> str:
    """Where in a config a dict stands, or else of which type it is."""
    path = _place(cfg, built) if cfg is not None else None
    return describe_place(path, built) if path else type_name(built.get('type'))
