# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""What the tools do to a config, the same in each."""

import importlib
import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.runner import Runner

from mmmokd.weights.files import missing_file_message

from .config_keys import BY_NAME, describe_place, known_keys, nearest
from .config_tree import get_node
from .runtime import DATALOADERS, MMENGINE_HOOKS

# What a Runner reads from its config besides its own arguments.
RUNNER_KEYS = (
    'activation_checkpointing',
    'compile',
    'custom_imports',
    'efficient_conv_bn_eval',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'runner_type',
    'sync_bn',
)
SUFFIXES = ('.py', '.yml', '.yaml', '.json')


def load_config(path: str | Path, options: dict[str, Any] | None = None) -> Config:
    """Read a config and override some of its values.

    Args:
        path (str | Path): The config's file.
        options (dict, optional): Values by dotted key, as ``--cfg-options`` gives them. Defaults to
            None.

    Returns:
        Config: The config.

    Raises:
        FileNotFoundError: If there is no such file; names the nearest.
        ValueError: If the file is of another kind, needs a library that is not installed, or an
            option overrides what neither the config nor a Runner has.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(missing_file_message(path, 'config', '.py', [Path('configs')]))
    if path.suffix not in SUFFIXES:
        raise ValueError(f'config {path} should end in one of {", ".join(SUFFIXES)}')
    cfg = _read_config(path)
    options = {key: _plain_value(cfg, key, value) for key, value in (options or {}).items()}
    _check_options(cfg, options)
    new = {key: path for key in options if (path := _first_new(cfg, key))}
    try:
        cfg.merge_from_dict(options)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f'--cfg-options do not fit {path}: {error}') from error
    # After the merge, for one option may change the `type` that another is an argument of.
    for key, place in new.items():
        _check_new(cfg, key, place)
    return cfg


def _read_config(path: Path) -> Config:
    """Read a config; refuse one of a library that is not there, or for whom mmcv lacks its ops."""
    try:
        cfg = Config.fromfile(path)
        if cfg.get('default_scope') == 'mmdet':
            importlib.import_module('mmcv.ops')
    except ModuleNotFoundError as error:
        raise ValueError(
            f'config {path} needs a library that is not installed: {error}. For mmdet, mmseg and '
            "mmcv's compiled operators: bash tools/setup_env.sh det seg"
        ) from error
    return cfg


def _check_options(cfg: Config, options: dict[str, Any]) -> None:
    """Refuse an option that nothing would read, as a mistyped one."""
    if 'runner_type' in cfg:
        return
    known = {*cfg, *inspect.signature(Runner.__init__).parameters, *RUNNER_KEYS}
    for key in options:
        first = key.partition('.')[0]
        if first not in known:
            nested = [
                name for name, value in cfg.items() if isinstance(value, dict) and first in value
            ]
            hint = nearest(first, known)
            if nested:
                hint = f' Did you mean {" or ".join(f"{name}.{key}" for name in nested)}?'
            raise ValueError(f'--cfg-options {key}: {cfg.filename} has no {first}.{hint}')


class CommaText(list):
    """A list that was written as ``a,b``; it may be a text with commas, as a folder's name.

    Args:
        values (Sequence): The list.
        text (str): As written.
    """

    def __init__(self, values: Sequence, text: str) -> None:
        super().__init__(values)
        self.text = text


def _plain_value(cfg: Config, key: str, value: Any) -> Any:
    """An option's value: of ``a,b``, the text where the config has a text or a file has that name."""
    if not isinstance(value, CommaText):
        return value
    try:
        is_text = isinstance(get_node(cfg, key.split('.')), str)
    except LookupError:
        is_text = False
    is_there = os.path.exists(os.path.expanduser(value.text))  # False of what can be no path, too
    return value.text if is_text or is_there else list(value)


def _first_new(cfg: Config, key: str) -> list[str] | None:
    """The place of what an option adds to a dict of the config, if it adds anything."""
    parts = key.split('.')
    for depth in range(1, len(parts)):
        try:
            parent = get_node(cfg, parts[:depth])
        except LookupError:
            return None
        if isinstance(parent, dict) and parts[depth] not in parent:
            return parts[: depth + 1]
    return None


def _check_new(cfg: Config, key: str, place: list[str]) -> None:
    """Refuse an addition to a dict that nothing would read, or that would end in a TypeError."""
    *parent, name = place
    node, added = get_node(cfg, parent), get_node(cfg, place)
    others = {other: entry for other, entry in node.items() if other != name}
    needed = BY_NAME.get(tuple(parent))
    if needed and any(isinstance(entry, dict) and needed in entry for entry in others.values()):
        known = set(MMENGINE_HOOKS) if parent == ['default_hooks'] else set()
        fits = name in known or (isinstance(added, dict) and needed in added)
    else:
        known = known_keys(cfg, parent)
        fits = known is None or name in known
    if not fits:
        raise ValueError(
            f'--cfg-options {key}: {describe_place(parent, node)} takes no {name}.'
            + nearest(name, {*known, *others})
        )


def require_keys(cfg: Config, keys: Sequence[str], purpose: str) -> None:
    """Make sure that a config has what a purpose needs.

    Args:
        cfg (Config): The config.
        keys (Sequence[str]): Names that must be there and not None.
        purpose (str): For the message, for example ``'training'``.

    Raises:
        ValueError: If one is not there.
    """
    missing = [key for key in keys if cfg.get(key) is None]
    if missing:
        raise ValueError(
            f'{cfg.filename} is no config for {purpose}: it has no {" and no ".join(missing)}'
        )


def set_work_dir(cfg: Config, work_dir: str | None) -> None:
    """Decide where a run writes: what is given, else what the config says, else by its name.

    Args:
        cfg (Config): The config; changed in place.
        work_dir (str, optional): The folder given.
    """
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(cfg.filename).stem)


def set_dataloader_defaults(cfg: Config) -> None:
    """Give dataloaders the settings that mmpretrain's configs count on its tools to give.

    Configs of another ``default_scope``, as mmdet's and mmseg's, say what they need: their batches
    are lists of pictures of several sizes, which mmpretrain's ``default_collate`` cannot stack.

    Args:
        cfg (Config): The config; changed in place where it does not say otherwise.
    """
    defaults = {}
    if cfg.get('default_scope', 'mmpretrain') == 'mmpretrain':
        defaults = dict(
            pin_memory=True, collate_fn=dict(type='default_collate'), persistent_workers=True
        )
    for name in DATALOADERS:
        loader = cfg.get(name)
        if not loader:
            continue
        for key, value in defaults.items():
            loader.setdefault(key, value)
        # PyTorch refuses workers that persist or fetch ahead where there are none.
        if not loader.get('num_workers', 0):
            loader['persistent_workers'] = False
            loader.pop('prefetch_factor', None)


def enable_amp(cfg: Config) -> None:
    """Train in mixed precision.

    Args:
        cfg (Config): The config; its ``optim_wrapper`` is changed in place.

    Raises:
        ValueError: If there is no GPU.
    """
    if get_device() == 'cpu':
        raise ValueError('--amp needs a GPU and there is none: leave it out')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
