# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Names at the top of a config: what is read, by whom, and what is not."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from mmmokd.utils.config_tree import iter_dicts

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
# What FlexibleRunner, and the tools of mmpretrain, mmdet and mmseg, read.
TOOL_KEYS = ('strategy', 'tta_cfg', 'tta_model', 'tta_pipeline')
LIBRARY = '.mim'  # the folder of a library's configs
BASE_VARIABLE = re.compile(r'\{\{\s*([\w.:]+)\s*\}\}')


def runner_keys() -> set[str]:
    """Names that a Runner or a tool reads from a config.

    Returns:
        set[str]: The names.
    """
    parameters = set(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'}
    return {*parameters, *RUNNER_KEYS, *TOOL_KEYS, 'default_scope'}


def unread_names(cfg: Config) -> set[str]:
    """Names that a config assigns at its top and nothing reads.

    A file's names are read by itself, or as ``_base_.NAME`` by those that build on it: what its bases
    read, they have read before. Not among the names found: one with an underscore in front; one of a
    config that a library ships, which its user cannot change; one of a file that does not say what it
    reads, as one that mmengine wrote, or JSON.

    Args:
        cfg (Config): The config, as read from its file.

    Returns:
        set[str]: The names.
    """
    unknown = {name for name in cfg if not name.startswith('_')} - runner_keys()
    if not unknown:
        return set()
    unread: set[str] = set()
    for file, text in _files(cfg):  # bases before what builds on them
        try:
            tree = ast.parse(BASE_VARIABLE.sub(r'(\1)', text))
        except SyntaxError:  # JSON, YAML
            return set()
        names, used = _names(tree)
        if _is_written_by_mmengine(names, used):
            return set()
        if LIBRARY not in Path(file).parts:
            unread |= {*names}
        unread -= used
    # One that says again what is there does no harm.
    return {name for name in unread & unknown if not places_of(cfg, name)}


def places_of(cfg: Config, name: str) -> list[str]:
    """Where the value of a variable stands in what a Runner reads.

    Args:
        cfg (Config): The config.
        name (str): The variable.

    Returns:
        list[str]: Dotted keys, those first that are named as the variable; [] of values so common
        that they tell nothing, as numbers.
    """
    value = cfg[name]
    if not value or not isinstance(value, str | dict | list | tuple):
        return []
    known = runner_keys()
    places = [
        (*path, str(key))
        for path, node in iter_dicts(cfg._cfg_dict)
        if path and path[0] in known
        for key, other in node.items()
        if type(other) is type(value) and other == value
    ]
    return ['.'.join(place) for place in sorted(places, key=lambda place: place[-1] not in name)]


def _files(cfg: Config) -> Iterator[tuple[str, str]]:
    """Every file that a config is made of, with its text: each one's path stands before it."""
    file, lines = str(cfg.filename), []
    for line in (cfg.text or '').splitlines():
        if line.endswith(('.py', '.json', '.yml', '.yaml')) and Path(line).is_absolute():
            if lines:
                yield file, '\n'.join(lines)
            file, lines = line, []
        else:
            lines.append(line)
    yield file, '\n'.join(lines)


def _names(tree: ast.Module) -> tuple[list[str], set[str]]:
    """Names that a file assigns one by one at its top, in order, and those that it reads anywhere."""
    assigned = []
    for statement in tree.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = getattr(statement, 'targets', None) or [statement.target]
            # One that is unpacked from a list is no mistyped key.
            assigned += [target.id for target in targets if isinstance(target, ast.Name)]
    read = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            read.add(node.id)
        elif isinstance(node, ast.Attribute):  # also _base_.NAME
            read.add(node.attr)
    return assigned, read


def _is_written_by_mmengine(assigned: list[str], read: set[str]) -> bool:
    """Whether a file looks as ``Config.dump`` writes it: values for variables, sorted by name."""
    whole = '_base_' not in assigned and len(assigned) > 1
    return whole and read <= {'dict', 'set'} and assigned == sorted(assigned)
