# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""A branch's weights in the model of a downstream config."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmmokd.models.feature_maps import check_feature_maps
from mmmokd.registry import MODELS
from mmmokd.transfer.export import key_report
from mmmokd.utils.errors import ConfigError
from mmmokd.weights import (
    backbone_prefix,
    choose_branch,
    choose_network,
    read_weights,
    select_weights,
)
from mmmokd.weights.loaded import pretrained_entries


def plan_transfer(
    checkpoint: str | Path,
    branch: str | None,
    cfg: Config,
    network: str | None = None,
) -> tuple[list[str], dict[str, Any]]:
    """Find where a branch's weights go in the model of a config, and try them there.

    They go to ``model.backbone`` and to each other part of the model whose ``init_cfg`` is
    ``'Pretrained'``, as the shared head of a detector with C4. Each part is built and must take
    every weight.

    Args:
        checkpoint (str | Path): A checkpoint of MOKD.
        branch (str, optional): Name of the branch; None for the only one.
        cfg (Config): A config of mmpretrain, mmdet or mmseg, with the options that it is run with.
        network (str, optional): ``'teacher'`` or ``'student'``. Defaults to None: the teacher, or the
            student of a branch without one.

    Returns:
        tuple[list[str], dict[str, Any]]: The report of keys, a line each, and the options, by
        dotted key, that make the config start from the branch.

    Raises:
        MissingFileError: If there is no such checkpoint.
        ConfigError: If the branch does not exist, the config has no backbone, or a part of its model
            does not fit, or the heads are made for other maps than the backbone gives.
    """
    file = read_weights(checkpoint)
    branch = choose_branch(file, branch)
    prefix = backbone_prefix(branch, choose_network(file, branch, network))
    weights = select_weights(file, prefix)
    scope = cfg.get('default_scope') or 'mmpretrain'
    report, options = [], {}
    for key, part in _pretrained_parts(cfg):
        with DefaultScope.overwrite_default_scope(scope):
            module = MODELS.build(dict(part, init_cfg=None))
        report.append(f'{key} of {cfg.filename or "the config"}:')
        report += key_report(module, weights, f'{prefix}* of {checkpoint}')
        if 'init_cfg' in part:
            options[f'{key}.init_cfg._delete_'] = True
        options[f'{key}.init_cfg.type'] = 'Pretrained'
        options[f'{key}.init_cfg.checkpoint'] = str(Path(checkpoint).expanduser())
        options[f'{key}.init_cfg.prefix'] = prefix
    check_feature_maps(cfg)
    return report, options


def random_initialization(cfg: Config) -> dict[str, Any]:
    """The options that make a config start from random weights.

    Args:
        cfg (Config): A config of mmpretrain, mmdet or mmseg.

    Returns:
        dict[str, Any]: Options by dotted key.
    """
    return {f'{key}.init_cfg': None for key, _ in _pretrained_parts(cfg)}


def _pretrained_parts(cfg: Config) -> Iterator[tuple[str, dict]]:
    """The backbone, and other parts that start from pretrained weights, by dotted key."""
    model = cfg.get('model')
    if not isinstance(model, dict) or not isinstance(model.get('backbone'), dict):
        raise ConfigError(
            f'{cfg.filename or "the config"} has no model.backbone to start from a branch'
        )
    yield 'model.backbone', model['backbone']
    stack = [('model', model)]
    while stack:
        key, node = stack.pop()
        pretrained = bool(pretrained_entries(node.get('init_cfg')))
        if pretrained and key != 'model.backbone':
            yield key, node
        stack += [(f'{key}.{k}', v) for k, v in node.items() if isinstance(v, dict)]
