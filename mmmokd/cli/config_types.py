# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The classes that a config names, and the arguments that they take."""

import ast
import functools
import importlib
import importlib.util
import inspect
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import mmengine.registry
from mmengine.hooks import CheckpointHook
from mmengine.registry import Registry
from mmengine.utils import get_object_from_string

# What mmengine takes out of a dict before it builds from the rest.
ANY_TYPE = frozenset({'type', '_scope_', '_delete_'})
# Their **kwargs end in a TypeError, that of this one only when the first checkpoint is saved.
TAKE_NO_OTHERS = (CheckpointHook.__init__,)


class Arguments(NamedTuple):
    """Arguments that a callable takes, by name.

    Attributes:
        names (frozenset[str], optional): All of them; None if that cannot be told.
        required (frozenset[str]): Those without a default.
        annotations (dict[str, Any]): Types, of those that have one.
    """

    names: frozenset[str] | None
    required: frozenset[str] = frozenset()
    annotations: Mapping[str, Any] = {}

    def without(self, names: Iterable[str]) -> 'Arguments':
        """The same arguments but some, which something else than the config gives.

        Args:
            names (Iterable[str]): Their names.

        Returns:
            Arguments: The rest.
        """
        left = None if self.names is None else self.names - {*names}
        return Arguments(left, self.required - {*names}, self.annotations)

    def with_names(self, names: Iterable[str]) -> 'Arguments':
        """The same arguments and some more, which something else than the class reads.

        Args:
            names (Iterable[str]): Their names.

        Returns:
            Arguments: All of them.
        """
        return self._replace(names=None if self.names is None else self.names | {*names})


class FoundTypes(NamedTuple):
    """What a config's ``type`` may stand for.

    Attributes:
        targets (list[Callable]): Classes and functions; empty if there is none.
        sure (bool): Whether every registry could be asked.
    """

    targets: list[Callable]
    sure: bool


def find_types(kind: Any, scope: str, registry: Collection[str] = ()) -> FoundTypes:
    """Find what is registered under a name.

    Args:
        kind (Any): A name, with a scope or module or without, or a class.
        scope (str): Scope of names that have none.
        registry (Collection[str]): Names of the registries that are asked, as ``('hook',)``; ()
            for all. Defaults to ().

    Returns:
        FoundTypes: The classes and functions.
    """
    if not isinstance(kind, str):
        return FoundTypes([kind] if callable(kind) else [], True)
    prefix, _, name = kind.rpartition('.')
    registries, sure = _registries(prefix or scope)
    asked = [each for each in registries if not registry or each.name in registry]
    targets = []
    for each in asked:
        # What the scope lacks, mmengine's own registry of the kind may have.
        nodes = [each] if prefix else [each, each.root]
        targets += [node.module_dict[name] for node in nodes if name in node.module_dict][:1]
    if not targets and prefix:
        try:
            found = get_object_from_string(kind)
        except Exception:  # a library that cannot be imported raises anything
            return FoundTypes([], False)
        targets = [found] if callable(found) else []
    return FoundTypes(list(dict.fromkeys(targets)), sure)


def registered_names(scope: str, registry: Collection[str] = ()) -> set[str]:
    """All names that a config may use as a ``type``.

    Args:
        scope (str): Scope of the names.
        registry (Collection[str]): Names of registries, as :func:`find_types` has them. Defaults
            to ().

    Returns:
        set[str]: The names.
    """
    asked = [each for each in _registries(scope)[0] if not registry or each.name in registry]
    return {name for each in asked for node in (each, each.root) for name in node.module_dict}


@functools.cache
def _mmengine_registries() -> tuple[Registry, ...]:
    found = vars(mmengine.registry).values()
    return tuple(each for each in found if isinstance(each, Registry))


def _registries(scope: str) -> tuple[list[Registry], bool]:
    """The registries of a scope, with all that they register; whether all could be filled."""
    try:
        module = importlib.import_module(f'{scope}.registry')
        found = [each for each in vars(module).values() if isinstance(each, Registry)]
    except Exception:  # a scope need not be a package; a library may fail to import
        found = []
    sure = bool(found)
    roots = _mmengine_registries()
    found += [root.children[scope] for root in roots if scope in root.children]
    for registry in found:
        try:
            registry.import_from_location()
        except Exception:  # as above
            sure = False
    # mmengine falls back to its own registry where a scope has none of the kind.
    found += [root for root in roots if scope not in root.children]
    return list({id(each): each for each in found}.values()), sure


def is_scope(scope: str) -> bool:
    """Whether types can be looked up in a scope.

    Args:
        scope (str): As ``default_scope`` has it.

    Returns:
        bool: True if a library of the name has registries, or a registry was made for it.
    """
    made = any(scope in root.children for root in _mmengine_registries())
    try:
        return made or importlib.util.find_spec(f'{scope}.registry') is not None
    except (ImportError, ValueError):
        return False


@functools.cache
def arguments_of(target: Callable) -> Arguments:
    """Arguments that a class or function takes.

    A class hands ``**kwargs`` on to the class that it extends: the arguments of that are taken,
    too. Where ``**kwargs`` go anywhere else, it cannot be told what is taken.

    Args:
        target (Callable): The class or function.

    Returns:
        Arguments: The arguments.
    """
    constructors = [target]
    if inspect.isclass(target):
        constructors = [vars(cls)['__init__'] for cls in target.__mro__ if '__init__' in vars(cls)]
    names, required, annotations = set(), set(), {}
    for depth, function in enumerate(constructors):
        try:
            parameters, others = _parameters(function)
            closed = others is None or function in TAKE_NO_OTHERS
            hands_on, texts = (False, set()) if closed else _read_source(function, others)
        except (OSError, TypeError, ValueError, SyntaxError):  # built in: nothing to read
            return Arguments(None)
        names |= {*parameters, *texts}
        for name, parameter in parameters.items():
            annotations.setdefault(name, parameter.annotation)
            if depth == 0 and parameter.default is parameter.empty:
                required.add(name)
        if closed:
            return Arguments(frozenset(names), frozenset(required), annotations)
        if not hands_on:
            break
    return Arguments(None, frozenset(required), annotations)


def _parameters(function: Callable) -> tuple[dict[str, inspect.Parameter], str | None]:
    """Parameters that may be given by name; the name of ``**kwargs``, if it has them."""
    parameters = dict(inspect.signature(function).parameters)
    others = next(
        (each.name for each in parameters.values() if each.kind is each.VAR_KEYWORD), None
    )
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        name: each for name, each in parameters.items() if each.kind in named and name != 'self'
    }, others


def _read_source(function: Callable, others: str) -> tuple[bool, set[str]]:
    """Whether ``**kwargs`` go to the class that is extended; what may be taken out of them before.

    A signature does not say it, and ``**kwargs`` that go to a helper may be anything.
    """
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    # With another class in the brackets, it is not the next one that is called.
    own = function.__qualname__.rpartition('.')[0].rpartition('.')[2]
    hands_on = any(
        ast.unparse(call.func) in ('super().__init__', f'super({own}, self).__init__')
        and any(word.arg is None and ast.unparse(word.value) == others for word in call.keywords)
        for call in calls
    )
    # A text in the function may be a name that it takes out.
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    return hands_on, {text for text in texts if isinstance(text, str) and text.isidentifier()}


def common_arguments(targets: Iterable[Callable]) -> Arguments:
    """What at least one of several classes takes, and what all of them need.

    Args:
        targets (Iterable[Callable]): The classes and functions.

    Returns:
        Arguments: The arguments.
    """
    each = [arguments_of(target) for target in targets]
    if not each:
        return Arguments(None)
    names = None
    if all(one.names is not None for one in each):
        names = frozenset().union(*(one.names for one in each))
    required = frozenset.intersection(*(one.required for one in each))
    annotations = dict(each[0].annotations) if len(each) == 1 else {}
    return Arguments(names, required, annotations)
