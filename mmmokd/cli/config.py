# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Read a config for a command, override values, complete it."""

import importlib
import logging
import os
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import mmengine
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.utils import import_modules_from_strings

from mmmokd.cli.config_schema import check_config, is_per_branch, places_of, runner_keys
from mmmokd.cli.config_tables import BY_NAME
from mmmokd.config_paths import PACKAGE, PREFIX, bases_are_found, find_config, named_config
from mmmokd.engine.optimizers.precision import choose_dtype
from mmmokd.engine.runners.build_runner import DATALOADERS, MMENGINE_HOOKS
from mmmokd.utils.config_tree import get_node, iter_dicts
from mmmokd.utils.errors import ConfigError, MissingFileError
from mmmokd.utils.names import missing_file_message, nearest

DELETE = '._delete_'
MMENGINE = Path(mmengine.__file__).parent
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
        MissingFileError: If the file does not exist; names the nearest.
        ConfigError: If the file is of another kind, needs a library that is not installed, or an
            option overrides what neither the config nor a Runner has.
    """
    cfg, options = read_config(path), options or {}
    _fill_optimizers(cfg)
    origins = _spread_optimizer(cfg, options)
    _merge_options(cfg, {place: options[key] for place, key in origins.items()})
    for _, node in iter_dicts(cfg._cfg_dict):
        node.pop('_delete_', None)  # what found nothing to delete, which mmengine leaves
    check_config(cfg, origins)
    return cfg


def _find(path: str | Path) -> Path:
    """The file of a config, which may be one of this package."""
    if str(path).startswith(PREFIX):
        return named_config(str(path))
    path = Path(path)
    if path.is_file():
        return path
    found = None if path.is_dir() else find_config(path)
    if found is None:
        raise MissingFileError(missing_file_message(path, 'config', '.py', [Path('configs')]))
    print_log(f'config {path} does not exist; using {found}', 'current', logging.WARNING)
    return found


def read_config(path: str | Path) -> Config:
    """Read a config, of this package or of another, as it is.

    Args:
        path (str | Path): A file, or ``mmmokd::mokd/NAME.py``.

    Returns:
        Config: The config, unchecked.

    Raises:
        MissingFileError: If the file does not exist; names the nearest.
        ConfigError: If it is of another kind, raises an error, or needs a library that is not
            installed.
    """
    path = _find(path)
    if path.suffix not in SUFFIXES:
        raise ConfigError(f'config {path} should end in one of {", ".join(SUFFIXES)}')
    try:
        with bases_are_found():
            cfg = Config.fromfile(path)
        if cfg.get('default_scope') == 'mmdet':
            importlib.import_module('mmcv.ops')
    except ModuleNotFoundError as error:
        raise ConfigError(
            f'config {path} needs a library that is not installed: {error}. For mmdet, mmseg and '
            "mmcv's compiled operators: bash tools/setup_env.sh det seg"
        ) from error
    except Exception as error:  # the file is a program of its user: it may raise anything
        raise ConfigError(f'config {path} cannot be read: {_reason(error)}') from error
    return cfg


def _reason(error: Exception) -> str:
    """Say what went wrong while a file was read, and in which line of a config."""
    if isinstance(error, ImportError) and error.__cause__ is not None:
        error = error.__cause__  # of custom_imports, with less of the search path
    frames = traceback.extract_tb(error.__traceback__)
    libraries = {MMENGINE, PACKAGE, Path(os.__file__).parent}
    lines = [frame for frame in frames if libraries.isdisjoint(Path(frame.filename).parents)]
    where = f' ({lines[-1].filename}, line {lines[-1].lineno})' if lines else ''
    return f'{type(error).__name__}: {error}{where}'


def _branches_of_optimizers(cfg: Config) -> list[str] | None:
    """Names of the branches with optimizers of their own; None for a single optimizer."""
    wrapper, model = cfg.get('optim_wrapper'), cfg.get('model')
    if not isinstance(wrapper, dict) or not is_per_branch(cfg, wrapper):
        return None
    branches = model.get('branches') if isinstance(model, dict) else None
    return list(dict.fromkeys([*(wrapper.get('branches') or {}), *(branches or {})]))


def _fill_optimizers(cfg: Config) -> None:
    """Write the default of all branches' optimizers, if there is one, into each of them."""
    names = _branches_of_optimizers(cfg)
    if names and cfg.optim_wrapper.get('optimizer'):
        from mmmokd.engine import with_default_optimizer

        wrapper = cfg.optim_wrapper
        branches, default = wrapper.get('branches') or {}, wrapper.pop('optimizer')
        try:
            filled = with_default_optimizer(branches, default, names)
        except ValueError as error:
            raise ConfigError(f'config {cfg.filename}: {error}') from error
        wrapper.branches = ConfigDict(filled)


def _spread_optimizer(cfg: Config, options: dict[str, Any]) -> dict[str, str]:
    """Let ``optim_wrapper.optimizer`` among the options stand for that of every branch.

    Returns:
        dict[str, str]: The option that each place to be set comes from, by place; options for a
        single branch come last and win.
    """
    names = _branches_of_optimizers(cfg) or []
    common = 'optim_wrapper.optimizer'
    spread = {
        f'optim_wrapper.branches.{name}.optimizer{key.removeprefix(common)}': key
        for key in options
        if key == common or key.startswith(f'{common}.')
        for name in names
    }
    rest = {key: key for key in options if key not in spread.values()}
    return {**spread, **rest}


def _merge_options(cfg: Config, options: dict[str, Any]) -> None:
    """Override values of a config, as mmengine does; also elements of lists."""
    _check_options(cfg, options)
    for key in [key for key in options if key.endswith(DELETE)]:
        place = key.removesuffix(DELETE)
        if not isinstance(options[key], bool):
            raise ConfigError(f'--cfg-options {key} should be True, the others fill the dict')
        with suppress(LookupError):  # mmengine would leave `_delete_` in what does not exist
            if options[key] and get_node(cfg, place.split('.')) is not None:
                _put(cfg, place, ConfigDict())
    for key, value in options.items():
        if not key.endswith(DELETE):
            _put(cfg, key, value)
    if any(key.partition('.')[0] == 'custom_imports' for key in options) and cfg.custom_imports:
        _import_custom(cfg)


def _put(cfg: Config, key: str, value: Any) -> None:
    """Set the value of a dotted key; an empty dict replaces the previous value."""
    if isinstance(value, dict) and value:
        for name, each in value.items():
            _put(cfg, f'{key}.{name}', each)
        return
    *parents, last = key.split('.')
    if value is None:
        _check_left_out(cfg, key, '.'.join(parents), last)
    node = cfg._cfg_dict
    for depth, name in enumerate([*parents, last]):
        place, index = '.'.join(parents[:depth]), name
        if isinstance(node, list) and name.isdecimal() and int(name) < len(node):
            index = int(name)
        elif not isinstance(node, dict):
            wrong = (
                f'exceeds the length of {place}'
                if isinstance(node, list)
                else f'{place} is {node!r}'
            )
            raise ConfigError(f'--cfg-options do not fit {cfg.filename}: {key}: {wrong}')
        elif name.isdecimal() and name not in node:
            raise ConfigError(
                f'--cfg-options {key}: {cfg.filename} has no list {place}: give all of it'
            )
        if depth == len(parents):
            _check_empty(cfg, key, value, node.get(name) if isinstance(node, dict) else node[index])
            node[index] = value
        elif isinstance(node, dict) and node.get(name) is None:
            node[name] = ConfigDict()
        node = node[index]


def _check_empty(cfg: Config, key: str, value: Any, previous: Any) -> None:
    """Refuse an empty text where the config has none: a value that was forgotten."""
    if value != '' or (isinstance(previous, str | None) and not key.endswith('type')):
        return
    kinds = {dict: 'a dict', list: 'a list', tuple: 'a list'}
    found = next((text for kind, text in kinds.items() if isinstance(previous, kind)), previous)
    where = '' if found is None else f', where {cfg.filename} has {found}'
    raise ConfigError(
        f'--cfg-options {key}= has no value after the equals sign{where}: give one, or leave the option '
        'out'
    )


def _check_left_out(cfg: Config, key: str, place: str, name: str) -> None:
    """Refuse None for an entry by name, as a branch or a hook, that does not exist."""
    with suppress(LookupError):
        node = get_node(cfg, place.split('.')) if place in BY_NAME else None
        known = {*(node or ()), *(MMENGINE_HOOKS if place == 'default_hooks' else ())}
        if node is not None and name not in known:
            raise ConfigError(
                f'--cfg-options {key}: {place} takes no {name}.{nearest(name, known)}'
            )


def _import_custom(cfg: Config) -> None:
    """Import what options name: mmengine imports only what the file names."""
    try:
        import_modules_from_strings(**cfg.custom_imports)
    except (ImportError, TypeError) as error:
        raise ConfigError(f'--cfg-options custom_imports: {error}') from error


def _check_options(cfg: Config, options: dict[str, Any]) -> None:
    """Refuse an option that nothing would read: a mistyped one, or a variable of the file."""
    if 'runner_type' in cfg:
        return
    known = runner_keys()
    for key in options:
        first = key.partition('.')[0]
        if first in known:
            continue
        if first in cfg:
            places = places_of(cfg, first)[:3]
            hint = f' Set {" or ".join(places)} instead.' if places else ''
            raise ConfigError(
                f'--cfg-options {key}: {first} is a variable of {cfg.filename}, which has been read '
                f'by then: to change it here has no effect.{hint}'
            )
        nested = [name for name, value in cfg.items() if isinstance(value, dict) and first in value]
        hint = nearest(first, {*known, *cfg})
        if nested:
            hint = f' Did you mean {" or ".join(f"{name}.{key}" for name in nested)}?'
        raise ConfigError(f'--cfg-options {key}: {cfg.filename} has no {first}.{hint}')


def require_keys(cfg: Config, keys: Sequence[str], purpose: str) -> None:
    """Make sure that a config has what a purpose needs.

    Args:
        cfg (Config): The config.
        keys (Sequence[str]): Names that must be set and not None.
        purpose (str): For the message, for example ``'training'``.

    Raises:
        ConfigError: If one is missing or None.
    """
    missing = [key for key in keys if cfg.get(key) is None]
    if missing:
        raise ConfigError(
            f'{cfg.filename} is not a config for {purpose}: it has no {" and no ".join(missing)}'
        )


def set_work_dir(cfg: Config, work_dir: str | None) -> None:
    """Decide where a run writes: what is given, else what the config says, else by its name.

    Args:
        cfg (Config): The config; changed in place.
        work_dir (str, optional): The folder given.

    Raises:
        ConfigError: If it is an empty text, which would be the current folder.
    """
    if work_dir == '':
        raise ConfigError("--work-dir has no value: name a folder ('.' is the current one)")
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(cfg.filename).stem)


def set_dataloader_defaults(cfg: Config) -> None:
    """Give dataloaders the settings that mmpretrain's configs count on its tools to give.

    Configs of another ``default_scope``, as mmdet's and mmseg's, say what they need: their batches
    are lists of images of several sizes, which mmpretrain's ``default_collate`` cannot stack.

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
        ConfigError: If neither a GPU nor a CPU that computes in bfloat16 is available.
    """
    if choose_dtype('auto', get_device()) == 'float32':
        raise ConfigError(
            '--amp needs a GPU or a CPU with AVX512-BF16 or AMX, but neither is available: leave it out'
        )
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('dtype', 'auto')
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
