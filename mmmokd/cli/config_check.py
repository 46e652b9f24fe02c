# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""One check of a whole config, before anything is built from it."""

from collections.abc import Iterator, Mapping

from mmengine.config import Config

from mmmokd.cli.config_keys import (
    arguments_at,
    describe_place,
    entries_by_name,
    is_built_as_it_is,
    names_of_entries,
    nearest,
    registry_of,
    role_of,
    scope_at,
    types_at,
)
from mmmokd.cli.config_names import runner_keys, unread_names
from mmmokd.cli.config_types import Arguments, is_scope, registered_names
from mmmokd.cli.config_values import wrong_value
from mmmokd.utils.config_tree import iter_dicts, type_name

# A class that stands around these may add arguments to them.
COMPLETED = ('bbox_head', 'mask_head', 'rpn_head', 'roi_head', 'data_preprocessor', 'batch_sampler')
# Where the class around a dict may take keys out of it, only a name that is this near is mistyped.
NEAR = 0.88
OWN_SCOPE = 'mmmokd'
HINTS = {
    ('optim_wrapper', 'paramwise_cfg'): ' Give a part of a branch its lr and weight_decay by '
    'optim_wrapper.branches.NAME.parts.',
}


# Its place in the config, what is there, and what is wrong with it.
Fault = tuple[tuple[str, ...], str, str]


def check_config(cfg: Config, options: Mapping[str, str] | None = None) -> None:
    """Refuse what nothing would read, and what would end in an error once it is built.

    Every dict is compared with what reads it, or is built from it: keys, required keys, types that
    are not registered, and values, as far as these can be told.

    Args:
        cfg (Config): The config, options merged.
        options (Mapping[str, str], optional): Options of the command line by the dotted key that
            each sets, for the message. Defaults to None.

    Raises:
        ValueError: If there is a fault; names its place, where it comes from and the nearest name.
    """
    for path, place, fault in _faults(cfg):
        origin, hint = _origin(cfg, path, options or {})
        if place and origin.startswith('config '):
            place = f'{place} of the config'
        raise ValueError(f'{origin}: {place}{fault}{hint}')


def _origin(cfg: Config, path: tuple[str, ...], options: Mapping[str, str]) -> tuple[str, str]:
    """The option that a fault comes from, else the file; what to do about it."""
    by_place = {tuple(place.split('.')): option for place, option in options.items()}
    for key, option in by_place.items():
        shared = min(len(key), len(path))
        if key[:shared] == path[:shared]:
            return f'--cfg-options {option}', ''
    if option := by_place.get((*path[:-1], 'type')):
        start = option.removesuffix('type')
        return f'--cfg-options {option}', (
            f' It stands in {cfg.filename}: {start}_delete_=True leaves out what stands there.'
        )
    return f'config {cfg.filename}', ''


def _faults(cfg: Config) -> Iterator[Fault]:
    known = runner_keys()
    for name in sorted(unread_names(cfg)):
        hint = nearest(name, known, 0.75) or (
            ' What a base has read from a variable is set where it went; the name of a variable of '
            'your own begins with _.'
        )
        yield (name,), '', f'nothing reads {name}.{hint}'
    if 'runner_type' in cfg:
        return
    scope = cfg.get('default_scope')
    if isinstance(scope, str) and not is_scope(scope):
        yield (
            ('default_scope',),
            '',
            f'no library is installed, and no registry made, for default_scope {scope!r}.'
            + nearest(scope, ('mmengine', 'mmpretrain', 'mmdet', 'mmseg')),
        )
    for key in cfg:
        if key in known and (wrong := wrong_value((), cfg, key, None, ())):
            yield (key,), key, f' {wrong}'
    for path, node in iter_dicts(cfg._cfg_dict):
        if path and path[0] in known:
            yield from _faults_at(cfg, path, node)


def _faults_at(cfg: Config, path: tuple[str, ...], node: dict) -> Iterator[Fault]:
    place = describe_place(path, node)
    if needed := entries_by_name(cfg, path):
        yield from _faults_of_entries(path, node, needed)
        return
    if 'type' in node and (unknown := _unknown_type(cfg, path, node)):
        yield (*path, 'type'), place, f': {unknown}'
        return
    found = arguments_at(cfg, path)
    if found.names is not None:
        sure = 'type' not in node or bool(registry_of(path))
        for key in node:
            hint = '' if key in found.names else nearest(key, found.names, 0.6 if sure else NEAR)
            if key not in found.names and (sure or hint):
                hint = HINTS.get((*path, key), hint)
                yield (*path, str(key)), place, f' takes no {key}.{hint}'
    if missing := [] if _may_lack(path, node) else sorted(found.required - {*node}):
        yield path, place, f' lacks what it needs: {", ".join(map(repr, missing))}.'
    yield from _wrong_values(cfg, path, node, found)


def _faults_of_entries(path: tuple[str, ...], node: dict, needed: str) -> Iterator[Fault]:
    good = {name for name, entry in node.items() if isinstance(entry, dict) and needed in entry}
    right = good | names_of_entries(path)
    for name, entry in node.items():
        if entry is None or name in good:
            continue
        place = '.'.join(path)
        if name in right or not (hint := nearest(name, right)):
            yield (*path, name), f'{place}.{name}', f' lacks what it needs: {needed!r}.'
        else:
            yield (*path, name), place, f' takes no {name}.{hint}'


def _may_lack(path: tuple[str, ...], node: dict) -> bool:
    """Whether required arguments may come from elsewhere than the dict."""
    return 'type' in node and (not registry_of(path) or role_of(path) in COMPLETED)


def _unknown_type(cfg: Config, path: tuple[str, ...], node: dict) -> str | None:
    if not is_built_as_it_is(path):
        return None
    targets, sure = types_at(cfg, path)
    if targets or not sure:
        return None
    registry = registry_of(path)
    prefix, _, name = str(node['type']).rpartition('.')
    names = registered_names(prefix or scope_at(cfg, path), registry)
    hint = nearest(name, names, 0.6 if registry else NEAR)
    if not registry and not hint:
        return None
    # This package's own, of which the scope was left out.
    own = registered_names(OWN_SCOPE, registry) - registered_names('mmengine', registry)
    hint = hint or nearest(f'{OWN_SCOPE}.{name}', (f'{OWN_SCOPE}.{each}' for each in own), NEAR)
    hint = hint or ' Is its module in custom_imports, and is what it needs installed?'
    return f'no {(registry or ("class",))[0]} is registered as {node["type"]!r}.{hint}'


def _wrong_values(
    cfg: Config, path: tuple[str, ...], node: dict, found: Arguments
) -> Iterator[Fault]:
    targets = types_at(cfg, path).targets if 'type' in node else []
    for key in node:
        wrong = wrong_value(path, node, key, found.annotations.get(key), targets)
        if wrong:
            kind = type_name(node.get('type'))
            place = '.'.join((*path, str(key))) + (f' ({kind})' if kind else '')
            yield (*path, str(key)), place, f' {wrong}'
