# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Names at the top of a config: what is read, by whom, and what is not."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

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

    Not among them: a name with an underscore in front; one that the config's text reads, by itself
    or as ``_base_.NAME``; one of a config that a library ships, which its user cannot change; one
    of a file that tells nothing of what it reads, as one that mmengine wrote, or JSON.

    Args:
        cfg (Config): The config, as read from its file.

    Returns:
        set[str]: The names.
    """
    unknown = {name for name in cfg if not name.startswith('_')} - runner_keys()
    if not unknown:
        return set()
    assigned, read = set(), set()
    for file, text in _files(cfg):
        try:
            tree = ast.parse(BASE_VARIABLE.sub(r'(\1)', text))
        except SyntaxError:  # JSON, YAML
            return set()
        names, used = _names(tree)
        if _is_written_by_mmengine(names, used):
            return set()
        read |= used
        if '.mim' not in Path(file).parts:
            assigned |= {*names}
    return (unknown & assigned) - read


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
    """Names that a file assigns at its top, in order, and those that it reads anywhere."""
    assigned = []
    for statement in tree.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = getattr(statement, 'targets', None) or [statement.target]
            nodes = (node for target in targets for node in ast.walk(target))
            assigned += [
                node.id
                for node in nodes
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            ]
    read = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            read.add(node.id)
        elif isinstance(node, ast.Attribute):  # also _base_.NAME
            read.add(node.attr)
    return assigned, read


def _is_written_by_mmengine(assigned: list[str], read: set[str]) -> bool:
    """Whether a file looks as ``Config.dump`` writes it: values for variables, sorted by name."""
    return read <= {'dict', 'set'} and len(assigned) > 1 and assigned == sorted(assigned)
