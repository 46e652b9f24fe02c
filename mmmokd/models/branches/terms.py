# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Configs of loss terms and necks, completed by an algorithm's tables."""

import inspect
from collections.abc import Collection, Iterable, Mapping
from numbers import Real
from typing import Any

from mmmokd.structures.network_output import FEATURES
from mmmokd.utils.errors import ConfigError

from ..utils import check_number
from .backbone import class_of, has_argument


def resolve_heads(table: Mapping[str, dict], heads: Mapping | None, peers: bool) -> dict[str, dict]:
    """Complete the configs of a branch's heads.

    A config updates the table's default of the same name, or replaces it with ``_delete_=True``;
    None leaves the term out. A config with a ``type`` under another name is a further term. Terms of
    the table that learn from peers are left out where there are none.

    Args:
        table (Mapping[str, dict]): The algorithm's terms.
        heads (Mapping, optional): The branch's ``heads``.
        peers (bool): Whether the branch learns from others.

    Returns:
        dict[str, dict]: Full configs, the table's terms first.

    Raises:
        ConfigError: If a config is not a dict, a term is unknown, or a further term learns from peers
            and there are none.
    """
    heads = dict(heads or {})
    for term, cfg in heads.items():
        if cfg is not None and not isinstance(cfg, dict):
            raise ConfigError(f'heads.{term} must be a dict of settings or None, but got {cfg!r}')
    further = {t: cfg for t, cfg in heads.items() if t not in table and cfg is not None}
    unknown = sorted(t for t, cfg in further.items() if 'type' not in cfg)
    if unknown:
        raise ConfigError(
            f'unknown loss heads {unknown}; a branch has {", ".join(table) or "none"} by default, '
            'and a further one needs a type'
        )
    resolved = {}
    for term, cfg in {**table, **further}.items():
        own = heads.get(term, {})
        if own is None:
            continue
        cfg = _update(cfg, own)
        if class_of(cfg) is None:
            raise ConfigError(
                f'heads.{term} needs a type that is registered, but got {cfg.get("type")!r}'
            )
        if head_argument(cfg, 'teacher') == 'peers' and not peers:
            if term in further:
                raise ConfigError(
                    f"heads.{term} learns from peers (teacher='peers'), but the branch has none: "
                    f'give it one in cross_weight, or leave the head out (heads.{term}=None)'
                )
            continue
        resolved[term] = cfg
    return resolved


def _update(default: dict, own: dict) -> dict:
    own = dict(own)
    if own.pop('_delete_', False):
        return own
    if own.get('type', default['type']) != default['type']:
        # Another class may have no use for what the default says of its own.
        cls = class_of(own)
        default = {key: value for key, value in default.items() if has_argument(cls, key)}
    return {**default, **own}


def head_argument(cfg: Mapping, key: str) -> Any:
    """Look up what a head will have for an argument, before it is built.

    Args:
        cfg (Mapping): The head's config.
        key (str): Name of the argument.

    Returns:
        Any: As the config has it, else the default of the class's argument, else the class's
        attribute, else None.
    """
    if key in cfg:
        return cfg[key]
    cls = class_of(dict(cfg))
    for base in inspect.getmro(cls) if inspect.isclass(cls) else ():
        parameter = (
            inspect.signature(base.__init__).parameters.get(key)
            if '__init__' in vars(base)
            else None
        )
        if parameter is not None:
            return None if parameter.default is parameter.empty else parameter.default
        if key in vars(base):
            return vars(base)[key]
    return None


def resolve_peers(name: str, weight: Any, branches: Mapping[str, Any]) -> dict[str, float]:
    """Whom a branch learns from, and with which weight.

    Args:
        name (str): The branch.
        weight (float | dict[str, float | None]): Its ``cross_weight``: a number is that of all other
            branches; a dict names them, with None for one that is left out.
        branches (Mapping): All branches by name, with None for one that is left out.

    Returns:
        dict[str, float]: Weights by peer, in the order of the branches.

    Raises:
        ConfigError: If a peer is unknown or the branch itself, or a weight is not a number >= 0.
    """
    others = [other for other, cfg in branches.items() if other != name and cfg is not None]
    if not isinstance(weight, Mapping):
        if not isinstance(weight, Real):
            raise ConfigError(
                'cross_weight of a branch must be a number >= 0 or a dict of numbers by peer, but '
                f'got {weight!r}'
            )
        check_number('a branch', 'cross_weight', weight, zero=True)
        return dict.fromkeys(others, weight)
    if name in weight:
        raise ConfigError(
            f'cross_weight names the branch {name} itself: from its own teacher it learns by the '
            "heads with teacher='own', whose weight is their loss_weight"
        )
    for peer, value in weight.items():
        if peer not in branches:
            raise ConfigError(
                f'cross_weight names {peer!r}, but the other branches are '
                f'{", ".join(others) or "none"}'
            )
        if value is not None:
            check_number('a branch', f'cross_weight.{peer}', value, zero=True)
    return {peer: weight[peer] for peer in others if weight.get(peer) is not None}


def with_sources(table: Mapping[str, dict], given: Mapping, read: Iterable[str]) -> set[str]:
    """Add the necks that other necks read.

    Args:
        table (Mapping[str, dict]): The algorithm's necks.
        given (Mapping): The branch's own configs by name.
        read (Iterable[str]): What heads read of the branch.

    Returns:
        set[str]: These, what the necks among them read, and so on.
    """
    found, left = set(), [*read]
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            own = given.get(name)
            cfg = {**table.get(name, {}), **(own if isinstance(own, Mapping) else {})}
            left += [cfg['reads']] if 'reads' in cfg else []
    return found


def resolve_necks(
    table: Mapping[str, dict], defaults: Mapping[str, Any], given: Mapping, read: Iterable[str]
) -> dict[str, dict]:
    """Complete the configs of a branch's necks.

    Args:
        table (Mapping[str, dict]): The algorithm's necks. One that is not given is built where a
            head reads it.
        defaults (Mapping): Arguments of the table's necks that their configs need not give.
        given (Mapping): The branch's own configs by name; None leaves a neck out.
        read (Iterable[str]): What heads, and necks that they read, read of the branch.

    Returns:
        dict[str, dict]: Full configs, the table's necks first.

    Raises:
        ConfigError: If a config is not a dict with a type, or no head reads a neck that is given.
    """
    read = set(read)
    necks = {}
    for name, default in table.items():
        own = given.get(name, {} if name in read else None)
        if own is None:
            continue
        if not isinstance(own, dict):
            raise ConfigError(f'{name} must be a dict with a type, got {own!r}')
        cfg = _update(default, own)
        cls = class_of(cfg)
        extra = {k: v for k, v in defaults.items() if k not in cfg and has_argument(cls, k)}
        necks[name] = {**cfg, **extra}
    for name, own in given.items():
        if name in table or own is None:
            continue
        if not isinstance(own, dict) or 'type' not in own:
            raise ConfigError(f'{name} must be a dict with a type, got {own!r}')
        necks[name] = dict(own)
    unread = [name for name in necks if name not in read]
    if unread:
        raise ConfigError(
            f'no head reads {", ".join(unread)}: leave the neck out ({unread[0]}=None), or add a '
            f'head with reads={unread[0]!r}'
        )
    missing = sorted(name for name in read if name not in necks and name not in FEATURES)
    if missing:
        raise ConfigError(
            f'a head reads {missing[0]!r}, but the branch has no neck of that name: there are '
            f'{", ".join((*necks, *FEATURES))}'
        )
    return necks


def outputs_read(
    peers: Mapping[str, Mapping], heads: Mapping[str, Mapping[str, dict]]
) -> dict[str, set[str]]:
    """List what is read of each branch: by its own heads, and by those that learn from it.

    Args:
        peers (Mapping[str, Mapping]): Whom each branch learns from.
        heads (Mapping[str, Mapping[str, dict]]): Full configs of each branch's heads.

    Returns:
        dict[str, set[str]]: Names of necks, ``'pooled'`` and ``'tokens'``, by branch.

    Raises:
        ConfigError: If a head does not say what it reads.
    """
    read: dict[str, set[str]] = {name: set() for name in peers}
    for name, own in heads.items():
        for term, head in own.items():
            reads = head_argument(head, 'reads')
            if not isinstance(reads, str):
                raise ConfigError(
                    f'branch {name}: heads.{term} needs `reads`, what it reads of the networks: '
                    f"'pooled', 'tokens' or the name of a neck"
                )
            read[name].add(reads)
            from_peers = head_argument(head, 'teacher') == 'peers'
            for other in peers[name] if from_peers else (name,):
                read[other].add(head_argument(head, 'target_reads') or reads)
    return read


def reads_trained(heads: Mapping[str, dict], peers: Mapping[str, float]) -> set[str]:
    """List what a branch's own heads train: what any head with a weight reads.

    Where L_sm reads a neck of another framework, L_cm trains the projector.

    Args:
        heads (Mapping[str, dict]): Full configs of its heads.
        peers (Mapping[str, float]): Whom it learns from, with the weight of the heads that have none of
            their own.

    Returns:
        set[str]: Names of necks, ``'pooled'`` and ``'tokens'``.
    """
    cross_weight = max(peers.values(), default=0.0)
    return {
        head_argument(head, 'reads')
        for head in heads.values()
        if _weight_of(head, cross_weight) > 0
    }


def check_trained(trained: Collection[str], read: Collection[str], frozen: bool) -> None:
    """Refuse a branch that nothing trains, or of which others would read what nothing trains.

    Args:
        trained (Collection[str]): What its own heads train; see :func:`reads_trained` and
            :func:`with_sources`.
        read (Collection[str]): What any heads read of it; see :func:`outputs_read`.
        frozen (bool): Whether it is frozen.

    Raises:
        ConfigError: If no head trains it or a neck that others read, or, of a frozen branch, no
            other branch learns from it.
    """
    if frozen and not read:
        raise ConfigError(
            'it is frozen and no other branch learns from it: leave it out (set it to None), or name '
            'it in the cross_weight of another'
        )
    if frozen:
        return
    if not trained:
        raise ConfigError(
            'it has no loss heads with a weight, so nothing would train it: give it one, or set '
            'frozen=True'
        )
    untrained = sorted({*read} - {*trained, *FEATURES})
    if untrained:
        raise ConfigError(
            f'another branch learns from its {untrained[0]}, which no head of its own trains: give '
            f'it a head with reads={untrained[0]!r}, or take the heads of the others away that read '
            'it'
        )


def _weight_of(head: Mapping, cross_weight: float) -> float:
    """The largest weight that a head will have."""
    if head_argument(head, 'teacher') == 'peers' and 'loss_weight' not in head:
        return cross_weight
    weight = head_argument(head, 'loss_weight')
    return (
        weight if isinstance(weight, Real) else 1.0
    )  # what else it may be is told when it is built
