# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Checks of an algorithm's arguments, and the description of its branches for the log."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmmokd.utils.errors import ConfigError

from ..branches import Branch
from ..branches.branch import FROZEN_BACKBONE
from ..heads import BranchHead

CHANNELS = (1, 3)  # that mmengine's data preprocessors have means for


def check_names(branches: Any) -> None:
    names = list(branches) if isinstance(branches, dict | list | tuple) else branches
    if (
        not isinstance(branches, dict)
        or all(cfg is None for cfg in branches.values())
        or any('.' in name for name in branches)
    ):
        raise ConfigError(
            f'branches must be a non-empty dict with names without a dot, but got {names!r}'
        )


def check_branch(cfg: Any, arguments: Sequence[str], necks: Mapping[str, dict]) -> None:
    """Refuse what is not the config of a branch."""
    if not isinstance(cfg, dict):
        raise ConfigError(f'must be a dict with backbone, got {cfg!r}')
    if not cfg.get('backbone'):
        raise ConfigError(
            f'has no backbone: it needs one, and takes {", ".join(arguments)} and necks '
            f'({", ".join(necks)} or others)'
        )
    for key, value in cfg.items():
        if key in arguments or key in necks or value is None or isinstance(value, dict):
            continue
        near = difflib.get_close_matches(key, (*arguments, *necks), n=1)
        raise ConfigError(
            f'takes no {key}={value!r}: it takes {", ".join(arguments)}, and necks, which are dicts '
            'with a type.' + (f' Did you mean {near[0]}?' if near else '')
        )
    backbone = cfg['backbone']
    if not isinstance(backbone, dict) or 'type' not in backbone:
        raise ConfigError(f'backbone must be a dict with a type, got {backbone!r}')
    for key, others in (('ema', ()), ('frozen', (FROZEN_BACKBONE,))):
        if not isinstance(cfg.get(key), bool | None) and cfg[key] not in others:
            allowed = ' or '.join(['True', 'False', *map(repr, others)])
            raise ConfigError(f'{key} must be {allowed}, but got {cfg[key]!r}')


def check_refused(cfg: Mapping[str, Any], owner: str, refused: Mapping[str, str]) -> None:
    """Refuse arguments of a branch that an algorithm has no use for."""
    for key, reason in refused.items():
        if cfg.get(key) is not None:
            raise ConfigError(f'{owner} takes no {key}={cfg[key]!r} of a branch: {reason}')


def check_seen_views(
    branches: Mapping[str, Branch],
    num_global_views: int,
    heads: Iterable[tuple[str, str, str | None, BranchHead]],
) -> None:
    """Refuse branches whose ``views`` are not those that their heads compare."""
    seen = {
        name: [i for i in branch.views or range(num_global_views) if i < num_global_views]
        for name, branch in branches.items()
    }
    for name, found in seen.items():
        if not found:
            raise ConfigError(
                f'branch {name}: views must have one of the {num_global_views} global views '
                f'(num_global_views), from 0, but got {list(branches[name].views)}'
            )
    for name, term, peer, head in heads:
        views = branches[name].views
        if head.needs_local_views and views is not None and max(views) < num_global_views:
            raise ConfigError(
                f'branch {name}: heads.{term} needs a local view (from number {num_global_views}), '
                f'but views are {list(views)}'
            )
        if peer is not None and len(seen[name]) != len(seen[peer]):
            raise ConfigError(
                f'branch {name} learns from {peer} (heads.{term}), so both must see the same number '
                f'of global views, but {name} sees {len(seen[name])} and {peer} {len(seen[peer])}'
            )


def check_global_size(size: Any) -> None:
    sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
    if size is not None and (len(sides) != 2 or not all(type(x) is int and x > 0 for x in sides)):
        raise ConfigError(
            f'global_size must be a number of pixels, (height, width) or None, but got {size!r}'
        )


def describe_branch(branch: Branch) -> str:
    """Describe what a branch learns, for the log."""
    if branch.frozen:
        return 'frozen; no optimizer, no student and no EMA, one forward pass per step without gradient'
    terms: dict[str | None, list[str]] = {}
    for term, peer, _ in branch.terms():
        terms.setdefault(peer, []).append(term)
    learned = [
        f'{", ".join(found)}' + (f' from {peer}' if peer else '') for peer, found in terms.items()
    ]
    if branch.views is not None:
        learned.append(f'sees views {", ".join(map(str, branch.views))} alone')
    network = branch.network()
    return (
        f'learns {"; ".join(learned)}'
        + ('' if branch.ema else '; no EMA teacher')
        + (
            '; its backbone is frozen, one pass per step serves both networks'
            * network.frozen_backbone
        )
        + ('; its backbone learns low-rank updates alone (lora)' * network.has_lora)
    )


def check_statistics(preprocessor: dict) -> None:
    """Refuse means and standard deviations that do not belong to each other, or to images."""
    mean, std = preprocessor.get('mean'), preprocessor.get('std')
    lengths = [len(x) if isinstance(x, list | tuple) else x for x in (mean, std)]
    if lengths[0] != lengths[1] or (lengths[0] is not None and lengths[0] not in CHANNELS):
        raise ConfigError(
            'data_preprocessor needs mean and std of three values each or, for gray images, of one, '
            f'but got mean={mean!r}, std={std!r}'
        )
