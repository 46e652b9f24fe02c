# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Optimizers and schedules of a config by branch, against the branches of its model."""

from collections.abc import Collection

from mmengine.config import Config

from mmmokd.utils.config_tree import type_name
from mmmokd.utils.errors import ConfigError

CONSTRUCTOR = 'BranchOptimWrapperConstructor'


def drop_idle_settings(cfg: Config) -> list[str]:
    """Take out optimizers and schedules of branches that do not learn, so that none needs to be.

    ``model.branches.NAME=None`` leaves a branch out and ``model.branches.NAME.frozen=True`` freezes
    it; the rest of a config can then stay as it is.

    Args:
        cfg (Config): A full config; changed in place.

    Returns:
        list[str]: What was taken out and why, in sentences for the log.

    Raises:
        ConfigError: If an optimizer or a schedule is of a branch that the model does not know, or a
            branch that learns has no entry in a ``param_scheduler`` by branch.
    """
    model, wrapper = cfg.get('model'), cfg.get('optim_wrapper')
    if not isinstance(model, dict) or not isinstance(wrapper, dict):  # built, or None
        return []
    branches = model.get('branches')
    if not isinstance(branches, dict) or type_name(wrapper.get('constructor')) != CONSTRUCTOR:
        return []
    idle = {
        name: 'left out' if branch is None else 'frozen'
        for name, branch in branches.items()
        if branch is None or (isinstance(branch, dict) and branch.get('frozen') is True)
    }
    notices = _drop(wrapper.get('branches'), 'optim_wrapper.branches', branches, idle)
    schedules = cfg.get('param_scheduler')
    if isinstance(schedules, dict) and 'type' not in schedules:
        notices += _drop(schedules, 'param_scheduler', branches, idle)
        missing = [name for name in branches if name not in idle and name not in schedules]
        if missing:
            raise ConfigError(
                f'param_scheduler has no schedules of branch {" and ".join(missing)}, only of '
                f'{sorted(schedules)}: add param_scheduler.{missing[0]}, a list, which is empty for '
                'a constant learning rate'
            )
    return notices


def _drop(
    settings: dict | None, where: str, branches: Collection[str], idle: dict[str, str]
) -> list[str]:
    """Take the entries of idle branches out of one dict."""
    if not isinstance(settings, dict):
        return []
    unknown = sorted(set(settings) - set(branches))
    if unknown:
        raise ConfigError(
            f'{where} has {" and ".join(unknown)}, but the model has the branches {sorted(branches)}'
        )
    found = [name for name in settings if name in idle]
    for name in found:
        settings.pop(name)
    return [f'Branch {name} is {idle[name]}: {where}.{name} is not used.' for name in found]
