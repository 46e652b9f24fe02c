# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Check a config at load time: unknown names, types and keys, missing arguments, wrong values."""

import ast
import difflib
import functools
import importlib
import importlib.util
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mmengine.registry
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.registry import MODELS, Registry
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner, TestLoop, ValLoop
from mmengine.utils import get_object_from_string
from torch.utils.data import DataLoader

from mmmokd.cli import config_tables as tables
from mmmokd.engine.runners.build_runner import MMENGINE_HOOKS
from mmmokd.utils.config_tree import iter_dicts, type_name
from mmmokd.utils.errors import ConfigError
from mmmokd.utils.names import nearest

ROOTS = tuple(each for each in vars(mmengine.registry).values() if isinstance(each, Registry))
OWN_SCOPE = 'mmmokd'
# Where the class around a dict may take keys out of it, only a name that is this near is mistyped.
NEAR = 0.88
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
# Hands `**kwargs` to what is only called as the first checkpoint is saved, and takes none of them.
CLOSED = (CheckpointHook.__init__,)
LIBRARY = '.mim'  # the folder of a library's configs
BASE_VARIABLE = re.compile(r'\{\{\s*([\w.:]+)\s*\}\}')
KINDS = {bool: 'True or False', int: 'an integer', float: 'a number', type(None): 'None'}
CONTAINERS = {
    **dict.fromkeys((dict, Mapping), 'a dict'),
    **dict.fromkeys((list, tuple, Sequence), 'a list'),
}

Place = tuple[str, ...]
# Its place in the config, what stands there, and what is wrong with it.
Fault = tuple[Place, str, str]


class Arguments(NamedTuple):
    """Keys that a dict may have.

    Attributes:
        names (Mapping[str, Any]): Keys, with the type that each should have.
        required (frozenset[str]): Those that must be given.
        closed (bool): Whether no others are taken.
        configs (bool): Whether others must be configs, with a type, or None.
    """

    names: Mapping[str, Any] = {}
    required: frozenset[str] = frozenset()
    closed: bool = False
    configs: bool = False

    def but(self, without: Iterable[str] = (), more: Iterable[str] = ()) -> 'Arguments':
        """Without what something else than the config gives, with what something else reads."""
        left = {name: kind for name, kind in self.names.items() if name not in {*without}}
        names = {**dict.fromkeys(more), **left}
        return self._replace(names=names, required=self.required - {*without})


def check_config(cfg: Config, options: Mapping[str, str] | None = None) -> None:
    """Refuse what nothing would read, and what would end in an error once it is built.

    Every dict is compared with what reads it, or is built from it: keys, required keys, types that
    are not registered, and values, as far as signatures and the tables of mmengine's own sections
    tell. A class that takes any argument (``**kwargs`` up to the end of its MRO) is not judged.

    Args:
        cfg (Config): The config, options merged.
        options (Mapping[str, str], optional): Options of the command line by the dotted key that
            each sets, for the message. Defaults to None.

    Raises:
        ConfigError: At the first fault; names its place, where it comes from and the nearest name.
    """
    for path, place, fault in _faults(cfg):
        origin, hint = _origin(cfg, path, options or {})
        if place and origin.startswith('config '):
            place = f'{place} of the config'
        raise ConfigError(f'{origin}: {place}{fault}{hint}')


def _origin(cfg: Config, path: Place, options: Mapping[str, str]) -> tuple[str, str]:
    """The option that a fault comes from, else the file; what to do about it."""
    by_place = {tuple(place.split('.')): option for place, option in options.items()}
    for key, option in by_place.items():
        shared = min(len(key), len(path))
        if key[:shared] == path[:shared]:
            return f'--cfg-options {option}', ''
    if option := by_place.get((*path[:-1], 'type')):
        start = option.removesuffix('type')
        return f'--cfg-options {option}', (
            f' It comes from {cfg.filename}: {start}_delete_=True removes what is defined there.'
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
    if isinstance(scope, str) and not _is_scope(scope):
        hint = nearest(scope, ('mmengine', 'mmpretrain', 'mmdet', 'mmseg'))
        text = f'no library is installed, and no registry made, for default_scope {scope!r}.{hint}'
        yield ('default_scope',), '', text
    for key in known.intersection(cfg):
        if wrong := _wrong_value((), cfg, key, None, ()):
            yield (key,), key, f' {wrong}'
    for path, node in iter_dicts(cfg._cfg_dict):
        if path and path[0] in known:
            yield from _faults_at(cfg, path, node)


def _faults_at(cfg: Config, path: Place, node: dict) -> Iterator[Fault]:
    dotted, kind = '.'.join(path), type_name(node.get('type'))
    place = dotted + (f' ({kind})' if kind else '')
    if dotted in tables.BY_NAME and (path[0] != 'model' or _model_with_branches(cfg)):
        yield from _faults_of_entries(dotted, node)
        return
    targets = []
    if 'type' in node:
        targets, sure = _find(node['type'], _scope_at(cfg, path), _registries_of(path))
        if not targets and sure and (unknown := _unknown_type(cfg, path, node)):
            yield (*path, 'type'), place, f': {unknown}'
            return
    # The dataset of a bank may leave its type to that of the queries.
    elif node and _needs_type(path):
        yield path, place, " lacks what it needs: 'type'."
    found = _arguments_at(cfg, path, node, targets)
    sure = 'type' not in node or bool(_registries_of(path))
    for key in (key for key in node if not _takes(found, key, node[key])):
        hint = nearest(key, found.names, 0.6 if sure else NEAR)
        if sure or hint:
            hint = tables.HINTS.get(f'{dotted}.{key}', hint)
            yield (*path, str(key)), place, f' takes no {key}.{hint}'
    if (sure and role_of(path) not in tables.COMPLETED) or 'type' not in node:
        if missing := sorted(found.required - {*node}):
            yield path, place, f' lacks what it needs: {", ".join(map(repr, missing))}.'
    for key in node:
        if wrong := _wrong_value(path, node, key, found.names.get(key), targets):
            yield (*path, str(key)), f'{dotted}.{key}' + (f' ({kind})' if kind else ''), f' {wrong}'


def _needs_type(path: Place) -> bool:
    """Check whether a dict has a type of its own: no class of a library around it completes it."""
    if path[-2:] == ('bank_dataloader', 'dataset'):  # whose type may be that of the queries
        return False
    direct = path[0] != 'model' or len(path) < 3 or path[1] == 'branches'
    return direct and role_of(path) in tables.TYPED and bool(_registries_of(path))


def _takes(found: Arguments, key: str, value: Any) -> bool:
    """Check whether a dict may have a key, as far as that is known."""
    if key in found.names or not (found.closed or found.configs):
        return True
    return found.configs and (value is None or (isinstance(value, dict) and 'type' in value))


def _faults_of_entries(place: str, node: dict) -> Iterator[Fault]:
    needed, path = tables.BY_NAME[place], tuple(place.split('.'))
    good = {name for name, entry in node.items() if isinstance(entry, dict) and needed in entry}
    right = good.union(MMENGINE_HOOKS if place == 'default_hooks' else ())
    for name in (name for name, entry in node.items() if entry is not None and name not in good):
        hint = '' if name in right else nearest(name, right)
        lacks = (f'{place}.{name}', f' lacks what it needs: {needed!r}.')
        yield (*path, name), *((place, f' takes no {name}.{hint}') if hint else lacks)


def _unknown_type(cfg: Config, path: Place, node: dict) -> str | None:
    if not _is_built_as_it_is(path):
        return None
    roots = _registries_of(path)
    prefix, _, name = str(node['type']).rpartition('.')
    # Also this package's own, of which the scope was left out.
    known = {each: f'{OWN_SCOPE}.{each}' for each in _registered(OWN_SCOPE, roots)}
    known |= {each: each for each in _registered(prefix or _scope_at(cfg, path), roots)}
    near = difflib.get_close_matches(name, known, 1, 0.6 if roots else NEAR)
    if not roots and not near:
        return None
    hint = ' Is its module in custom_imports, and is what it needs installed?'
    if near:
        hint = f' Did you mean {known[near[0]]}?'
    return f'no {roots[0].name if roots else "class"} is registered as {node["type"]!r}.{hint}'


# Places in a config.


def role_of(path: Sequence[str]) -> str:
    """Find out what a dict is to the one around it.

    Args:
        path (Sequence[str]): The dict's place.

    Returns:
        str: The last key of the place that is not the index of a list; of hooks, schedulers and
        what a model has per branch, the first key or that of the dict around it.
    """
    names = [part for part in path if not part.isdecimal()] or [path[-1]]
    if names[0] in ('default_hooks', 'param_scheduler') and len(names) <= 2:
        return names[0]  # an entry by the name that its user gave it
    if len(names) > 2 and names[-2] in ('branches', 'parts', 'heads'):
        return names[-2]
    return 'dataloader' if names[-1] in tables.LOADERS else names[-1]


def _registries_of(path: Place) -> tuple[Registry, ...]:
    """Registries of the type of a dict; () if the class around the dict decides."""
    if path[0] != 'model':
        return tables.REGISTRIES.get(role_of(path), ())
    in_branch = path[1:2] == ('branches',)  # a branch, its backbone and necks, its heads
    of_branch = in_branch and (len(path) <= 4 or (path[3] == 'heads' and len(path) == 5))
    return (MODELS,) if of_branch or role_of(path) in tables.MODEL_PARTS else ()


def _is_built_as_it_is(path: Place) -> bool:
    """Tell whether a dict with a type is passed to its class unchanged, and is not a variable."""
    if path == ('optim_wrapper',) or path[0] not in inspect.signature(Runner.__init__).parameters:
        return False
    # A layer's init_cfg, norm_cfg and the like, and random augmentations, have such keys.
    return 'policies' not in path and not (len(path) > 1 and path[-1].endswith('_cfg'))


def _scope_at(cfg: Config, path: Place) -> str:
    """``_scope_`` of a dict or of one around it, else the default."""
    scope, node = cfg.get('default_scope') or 'mmpretrain', cfg._cfg_dict
    for part in path:
        node = node[int(part)] if isinstance(node, list | tuple) else node[part]
        if isinstance(node, dict) and 'type' in node:
            scope = node.get('_scope_') or scope
    return scope


def _arguments_at(cfg: Config, path: Place, node: dict, targets: Sequence[Callable]) -> Arguments:
    """Keys that a dict may have, given what reads it or is built from it."""
    role = role_of(path)
    if path[-1] in tables.LOADERS:
        # What a bank's loader lacks comes from the queries'.
        required = frozenset(() if path[-1] == 'bank_dataloader' else ('dataset', 'sampler'))
        loader = arguments_of(DataLoader)._replace(required=required)
        return loader.but(more=tables.LOADER_KEYS)
    if (section := _section_at(cfg, path, node)) is not None:
        return section
    if path[:2] == ('model', 'branches') and (model := _model_with_branches(cfg)):
        if (of_branch := _arguments_of_branch(cfg, path, node, model)) is not None:
            return of_branch
    if path[-1] == 'data_preprocessor' and 'type' not in node:
        return _preprocessors(_scope_at(cfg, path))
    if path in (('train_cfg',), ('val_cfg',), ('test_cfg',)) and 'type' not in node:
        loop = EpochBasedTrainLoop if node.get('by_epoch', True) else IterBasedTrainLoop
        targets = [dict(train_cfg=loop, val_cfg=ValLoop, test_cfg=TestLoop)[path[0]]]
    elif 'type' not in node or not _is_built_as_it_is(path):
        return Arguments()
    given, more = tables.GIVEN.get(role, ()), tables.EXTRA.get(role, ())
    found = _any_of(targets).but(more={*tables.ANY_TYPE, *more})
    return found._replace(required=found.required - {*given})


def _section_at(cfg: Config, path: Place, node: dict) -> Arguments | None:
    """A dict that a Runner, or an optimizer's constructor, reads itself."""
    by_name = ('branches', 'parts')
    names = (
        '*' if above in by_name else name for above, name in zip(('', *path), path, strict=False)
    )
    section = tables.SECTIONS.get('.'.join(names))
    if path[:2] == ('optim_wrapper', 'branches') and path[3:] == ('parts',):
        own = ((cfg.get('model') or {}).get('branches') or {}).get(path[2]) or {}
        necks = getattr(_model_with_branches(cfg), 'necks', {})
        return Arguments(dict.fromkeys(['backbone', 'heads', *necks, *own]), closed=True)
    if section is None:
        return None
    taken = {k: v for each in section.functions for k, v in arguments_of(each).names.items()}
    found = Arguments(taken, section.required, closed=True)
    found = found.but(tables.NOT_IN_SECTIONS, section.keys)
    if path != ('optim_wrapper',):
        return found
    constructor, kind = (type_name(node.get(key)) for key in ('constructor', 'type'))
    default = constructor in ('', 'DefaultOptimWrapperConstructor')
    closed = kind in ('', 'OptimWrapper', 'AmpOptimWrapper') and (default or 'branches' in node)
    return found.but(more=['paramwise_cfg' if default else 'branches'])._replace(closed=closed)


def is_per_branch(cfg: Config, wrapper: Mapping) -> bool:
    """Tell whether an optimizer's wrapper builds one optimizer per branch.

    Args:
        cfg (Config): The config, for its scope.
        wrapper (Mapping): Its ``optim_wrapper``.

    Returns:
        bool: True if its constructor says so by an attribute ``per_branch``.
    """
    roots = (mmengine.registry.OPTIM_WRAPPER_CONSTRUCTORS,)
    targets, _ = _find(wrapper.get('constructor'), _scope_at(cfg, ()), roots)
    return any(getattr(each, 'per_branch', False) for each in targets)


def _model_with_branches(cfg: Config) -> type | None:
    """The class of a model that is built of branches: it takes ``branches``."""
    model = cfg.get('model')
    if not isinstance(model, dict) or 'type' not in model:
        return None
    targets, _ = _find(model['type'], _scope_at(cfg, ('model',)), (MODELS,))
    return targets[0] if targets and 'branches' in arguments_of(targets[0]).names else None


def _arguments_of_branch(cfg: Config, path: Place, node: dict, model: type) -> Arguments | None:
    """A branch, its heads, or a head or neck, which updates that of the model's table."""
    terms, necks = getattr(model, 'terms', {}), getattr(model, 'necks', {})
    within = path[3:]
    if within == ('heads',):
        new = [name for name, head in node.items() if isinstance(head, dict) and 'type' in head]
        return Arguments(dict.fromkeys([*terms, *new]), closed=bool(terms))
    if not within:
        default = dict(type=getattr(model, 'branch_type', None))
    elif within[0] == 'heads' and len(within) == 2:
        default = terms.get(within[1], {})
    elif within[0] in necks and len(within) == 1:
        default = {**getattr(model, 'neck_defaults', {}), **necks[within[0]]}
    elif len(within) == 1 and 'type' in node and within[0] not in tables.NOT_NECKS:
        default = {}
    else:
        return None
    targets, _ = _find(node.get('type') or default.get('type'), _scope_at(cfg, path), (MODELS,))
    found = _any_of(targets).but(more=tables.ANY_TYPE)
    if not within:
        # All others are necks.
        found = found.but(tables.FOR_BRANCHES, ['cross_weight', *necks])
        return found._replace(configs=bool(targets) and not found.closed)
    if within[0] != 'heads':
        found = found.but(more=['reads'])  # of a neck: the neck that it reads
    return found._replace(required=found.required - {*default, *tables.INFERRED})


def _preprocessors(scope: str) -> Arguments:
    """Arguments of all data preprocessors, since the model decides on the type."""
    names = [name for name in _registered(scope, (MODELS,)) if name.endswith('DataPreprocessor')]
    found = [arguments_of(each) for name in names for each in _find(name, scope, (MODELS,))[0]]
    known = {key for each in found for key in each.names}
    return Arguments(dict.fromkeys([*tables.ANY_TYPE, *known]), closed=bool(known))


# Signatures and registries.


@functools.cache
def arguments_of(target: Callable) -> Arguments:
    """Arguments that a class or function takes.

    A class that takes ``**kwargs`` takes what the next one in its MRO does.

    Args:
        target (Callable): The class or function.

    Returns:
        Arguments: Not ``closed`` if ``**kwargs`` lead up to the end of the MRO.
    """
    if getattr(target, '__name__', '') in tables.NOT_JUDGED:
        return Arguments()
    functions, names, required = [target], {}, frozenset()
    if inspect.isclass(target):
        functions = [vars(cls)['__init__'] for cls in target.__mro__ if '__init__' in vars(cls)]
    for function in functions:
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):  # built in
            break
        own = {each.name: each for each in parameters if each.kind in NAMED and each.name != 'self'}
        if names and {*own} == {'init_cfg'}:
            break  # whoever takes `**kwargs` in front of no more than this wants them elsewhere
        if function is functions[0]:
            required = frozenset(name for name, each in own.items() if each.default is each.empty)
        names = {**{name: each.annotation for name, each in own.items()}, **names}
        rest = [each for each in parameters if each.kind is each.VAR_KEYWORD]
        if not rest or function in CLOSED:
            return Arguments(names, required, closed=True)
    return Arguments(names, required)


def _any_of(targets: Iterable[Callable]) -> Arguments:
    """Arguments that at least one of several classes takes; required are those of all."""
    each = [arguments_of(target) for target in targets]
    if len(each) == 1:
        return each[0]
    names = {name: None for one in each for name in one.names}
    required = frozenset.intersection(*(one.required for one in each)) if each else frozenset()
    return Arguments(names, required, bool(each) and all(one.closed for one in each))


def _is_scope(scope: str) -> bool:
    made = any(scope in root.children for root in ROOTS)
    try:
        return made or importlib.util.find_spec(f'{scope}.registry') is not None
    except (ImportError, ValueError):
        return False


def _nodes(scope: str, roots: Sequence[Registry]) -> tuple[list[Registry], bool]:
    """Registries of a scope, then mmengine's own, filled; whether all could be."""
    try:
        module = vars(importlib.import_module(f'{scope}.registry'))
        sure = True
    except Exception:  # a scope need not be a package; a library may fail to import
        module, sure = {}, any(scope in root.children for root in ROOTS)
    found = [root.children[scope] for root in roots or ROOTS if scope in root.children]
    if not roots:
        found += [each for each in module.values() if isinstance(each, Registry)]
    for registry in found:
        try:
            registry.import_from_location()
        except Exception:  # as above
            sure = False
    return [*found, *(roots or ROOTS)], sure


def _registered(scope: str, roots: Sequence[Registry]) -> set[str]:
    return {name for node in _nodes(scope, roots)[0] for name in node.module_dict}


def _find(kind: Any, scope: str, roots: Sequence[Registry]) -> tuple[list[Callable], bool]:
    """Classes that a ``type`` may stand for, and whether every registry could be searched."""
    if not isinstance(kind, str):
        return [kind] if callable(kind) else [], True
    prefix, _, name = kind.rpartition('.')
    nodes, sure = _nodes(prefix or scope, roots)
    targets = [node.module_dict[name] for node in nodes if name in node.module_dict]
    if roots:
        targets = targets[:1]
    if not targets and prefix:
        try:
            found = get_object_from_string(kind)
        except Exception:  # a library that cannot be imported raises anything
            return [], False
        targets = [found] if callable(found) else []
    return list(dict.fromkeys(targets)), sure


# Values.


def _wrong_value(
    path: Place, node: Mapping, key: str, annotation: Any, targets: Sequence[Callable]
) -> str | None:
    """Say what is wrong with a value; None if nothing is known to be."""
    value, names = node[key], [type_name(node.get('type')), role_of(path) if path else '', '*']
    rule = next(filter(None, (tables.RULES.get(name, {}).get(key) for name in names)), None)
    allowed = (
        str(rule) if rule and not rule.fits(value) else _by_annotation(path, annotation, value)
    )
    if allowed is None:
        return _by_table(key, value, targets)
    hint = ''
    if allowed == str(tables.TEXT) and isinstance(value, list):
        place = '.'.join((*path, key))
        hint = f'. Of a text with commas, --cfg-options wants the quotes: {place}=\'"..."\''
    return f'should be {allowed}, not {value!r}{hint}'


def _by_annotation(path: Place, annotation: Any, value: Any) -> str | None:
    """Compare a value with its annotation: a text for a number, or a list for a text."""
    if path[:1] == ('model',) and annotation is bool:  # often with a text besides, in libraries
        return None
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    kinds = typing.get_args(annotation) if union else (annotation,)
    if isinstance(value, list) and {*kinds} <= {str, Path, type(None)} and str in kinds:
        return 'a text'
    if not isinstance(value, str):
        return None
    known = KINDS if value else {**KINDS, **CONTAINERS}  # some of which take a text as well
    names = [known.get(kind, known.get(typing.get_origin(kind))) for kind in kinds]
    return None if None in names else ' or '.join(names)


def _by_table(key: str, value: Any, targets: Sequence[Callable]) -> str | None:
    """Names of architectures and depths that a class has."""
    if key not in tables.ARCHITECTURES or not isinstance(value, str | int):
        return None
    targets = [each for each in targets if arguments_of(each).names]
    found = [getattr(each, name, None) for each in targets for name in tables.ARCHITECTURES[key]]
    known = list(
        dict.fromkeys(entry for table in found if isinstance(table, dict) for entry in table)
    )
    lower = {str(each).lower() for each in known if isinstance(each, type(value))}
    if not known or str(value).lower() in lower:
        return None
    shown = [each for each in known if not isinstance(each, str) or len(each) > 2] or known
    names = ', '.join(map(str, shown))
    return f'should be one of {names}, not {value!r}.{nearest(str(value), known)}'


# Names at the top of a config.


def runner_keys() -> set[str]:
    """Names that a Runner or a tool reads from a config.

    Returns:
        set[str]: The names.
    """
    parameters = set(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'}
    return {*parameters, *tables.RUNNER_KEYS}


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
    unread: set[str] = set()
    for file, text in _files(cfg) if unknown else ():  # bases before what builds on them
        try:
            tree = ast.parse(BASE_VARIABLE.sub(r'(\1)', text))
        except SyntaxError:  # JSON, YAML
            return set()
        # A name that is unpacked from a list is not a mistyped key.
        statements = [each for each in tree.body if isinstance(each, ast.Assign)]
        assigned = [x.id for each in statements for x in each.targets if isinstance(x, ast.Name)]
        loads = [
            each for each in ast.walk(tree) if isinstance(getattr(each, 'ctx', None), ast.Load)
        ]
        used = {getattr(each, 'id', None) or getattr(each, 'attr', None) for each in loads}
        dumped = used <= {'dict', 'set', None} and assigned == sorted(assigned)
        if dumped and len(assigned) > 1 and '_base_' not in assigned:
            return set()
        if LIBRARY not in Path(file).parts:
            unread |= {*assigned}
        unread -= used
    # A variable whose value is in use does no harm.
    return {name for name in unread & unknown if not places_of(cfg, name)}


def places_of(cfg: Config, name: str) -> list[str]:
    """Find the value of a variable in what a Runner reads.

    Args:
        cfg (Config): The config.
        name (str): The variable.

    Returns:
        list[str]: Dotted keys, those first that are named as the variable; [] of values so common
        that they tell nothing, as numbers.
    """
    value, known = cfg[name], runner_keys()
    if not value or not isinstance(value, str | dict | list | tuple):
        return []
    places = [
        (*path, str(key))
        for path, node in iter_dicts(cfg._cfg_dict)
        if path and path[0] in known
        for key, other in node.items()
        if type(other) is type(value) and other == value
    ]
    return ['.'.join(place) for place in sorted(places, key=lambda place: place[-1] not in name)]


def _files(cfg: Config) -> Iterator[tuple[str, str]]:
    """Files of a config with their texts; in ``Config.text`` the path precedes each text."""
    file, lines = str(cfg.filename), []
    for line in (cfg.text or '').splitlines():
        if line.endswith(('.py', '.json', '.yml', '.yaml')) and Path(line).is_absolute():
            if lines:
                yield file, '\n'.join(lines)
            file, lines = line, []
        else:
            lines.append(line)
    yield file, '\n'.join(lines)
