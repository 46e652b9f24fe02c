# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Which keys a dict of a config may have."""

import ast
import difflib
import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import mmengine.registry
from mmengine.config import Config
from mmengine.dist import init_dist
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import Registry
from mmengine.runner import (
    EpochBasedTrainLoop,
    IterBasedTrainLoop,
    LogProcessor,
    Runner,
    TestLoop,
    ValLoop,
)
from mmengine.utils.dl_utils import set_multi_processing
from torch.distributed import init_process_group
from torch.utils.data import DataLoader

from .config_tree import get_node, type_name
from .runtime import DATALOADERS

# What mmengine takes out of a dict before it builds from the rest.
ANY_TYPE = frozenset({'type', '_scope_', '_delete_', 'priority', 'convert_to_iter_based'})
DATALOADER = frozenset({'num_batch_per_epoch', 'disable_subprocess_warning'})
FIXED = {
    ('auto_scale_lr',): frozenset({'base_batch_size', 'enable'}),
    ('custom_imports',): frozenset({'imports', 'allow_failed_imports'}),
    ('env_cfg',): frozenset({'cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'}),
}
# Dicts by name whose entries are no arguments; what every entry has.
BY_NAME = {
    ('default_hooks',): 'type',
    ('model', 'branches'): 'backbone',
    ('optim_wrapper', 'branches'): 'optimizer',
}
OWN_CONSTRUCTOR = 'BranchOptimWrapperConstructor'


def nearest(key: str, known: Iterable[str]) -> str:
    """A hint at what was meant, for the end of a message.

    Args:
        key (str): What was found.
        known (Iterable[str]): What may be there.

    Returns:
        str: ``' Did you mean NAME?'``, or nothing if no name is near.
    """
    similar = difflib.get_close_matches(key, sorted(known), n=1)
    return f' Did you mean {similar[0]}?' if similar else ''


def describe_place(path: Sequence[str], node: dict) -> str:
    """A dict of a config, for a message.

    Args:
        path (Sequence[str]): Its place.
        node (dict): The dict.

    Returns:
        str: ``'model.backbone (ResNet)'``.
    """
    kind = type_name(node.get('type'))
    return '.'.join(path) + (f' ({kind})' if kind else '')


def known_keys(cfg: Config, path: Sequence[str]) -> set[str] | None:
    """Which keys a dict of a config may have.

    Args:
        cfg (Config): The config.
        path (Sequence[str]): The dict's place.

    Returns:
        set[str], optional: What is built from the dict takes them; None if that cannot be told, as
        of dicts that are handed on as they are.
    """
    path, node = tuple(path), get_node(cfg, path)
    if not isinstance(node, dict):
        return None
    known = FIXED.get(path) or _of_mmengine(cfg, path, node)
    if known is None and 'type' in node and _is_built_as_it_is(path):
        known = keys_of_type(cfg, node['type'])
    return None if known is None else set(known)


def _is_built_as_it_is(path: tuple[str, ...]) -> bool:
    """Whether a dict with a type goes to its class without keys that somebody takes out before."""
    if path == ('optim_wrapper',) or path[0] not in inspect.signature(Runner.__init__).parameters:
        return False
    # A layer's init_cfg, norm_cfg and the like, and random augmentations, have such keys.
    return 'policies' not in path and not (len(path) > 1 and path[-1].endswith('_cfg'))


def _of_mmengine(cfg: Config, path: tuple[str, ...], node: dict) -> set[str] | None:
    """Keys of the dicts that a Runner, or MOKD, reads itself."""
    if path[-1] in (*DATALOADERS, 'bank_dataloader'):
        return {*_parameters(DataLoader), *DATALOADER}
    if path == ('optim_wrapper',):
        return _of_optim_wrapper(node)
    if path[:-1] == ('model', 'branches') and type_name(cfg.model.get('type')) == 'MOKD':
        from mmmokd.models.branches import Branch

        return _parameters(Branch) - {'peers'}
    callables = {
        ('randomness',): (Runner.set_randomness,),
        ('env_cfg', 'mp_cfg'): (set_multi_processing,),
        ('env_cfg', 'dist_cfg'): (init_dist, init_process_group),
    }
    if 'type' not in node:
        loop = EpochBasedTrainLoop if node.get('by_epoch', True) else IterBasedTrainLoop
        callables |= {
            ('log_processor',): (LogProcessor,),
            ('train_cfg',): (loop,),
            ('val_cfg',): (ValLoop,),
            ('test_cfg',): (TestLoop,),
        }
    if path not in callables:
        return None
    names = set().union(*map(_parameters, callables[path]))
    names -= {'runner', 'dataloader', 'evaluator', 'launcher', 'distributed'}
    return names | ({'by_epoch'} if path == ('train_cfg',) else set())


def _of_optim_wrapper(node: dict) -> set[str] | None:
    constructor, kind = (type_name(node.get(key)) for key in ('constructor', 'type'))
    if kind not in ('', 'OptimWrapper', 'AmpOptimWrapper'):
        return None
    # Also those of mixed precision, which --amp turns on later.
    known = {*_parameters(OptimWrapper), *_parameters(AmpOptimWrapper), *ANY_TYPE}
    known |= {'constructor', 'paramwise_cfg'}
    if constructor == OWN_CONSTRUCTOR:
        return known | {'branches'}
    return known if constructor in ('', 'DefaultOptimWrapperConstructor') else None


def keys_of_type(cfg: Config, kind: Any) -> set[str] | None:
    """Which keys a dict of a type may have.

    Args:
        cfg (Config): The config, for its scope.
        kind (Any): A name, a class or None.

    Returns:
        set[str], optional: What any registered class or function of that name takes; None if that
        cannot be told.
    """
    try:
        found = list(_registered(cfg, kind)) if isinstance(kind, str) else [kind]
    except Exception:  # a library that cannot be imported raises anything
        return None
    try:
        names = [_accepted(each) for each in found]
    except (OSError, TypeError, ValueError, SyntaxError):  # built in: nothing to read
        return None
    return None if not names or None in names else set(ANY_TYPE).union(*names)


def _registered(cfg: Config, kind: str) -> Iterator[Callable]:
    """What is registered under a name, whichever registry would be asked for it."""
    scope = cfg.get('default_scope')
    for root in vars(mmengine.registry).values():
        if isinstance(root, Registry):
            found = root.get(f'{scope}.{kind}') if scope and '.' not in kind else None
            found = found or root.get(kind)
            if found is not None:
                yield found


def _accepted(target: Callable) -> set[str] | None:
    """Arguments by name that a class takes, also those that it hands on to the class it extends."""
    constructors = [target]
    if inspect.isclass(target):
        constructors = [vars(cls)['__init__'] for cls in target.__mro__ if '__init__' in vars(cls)]
    accepted = set()
    for function in constructors:
        known, takes_others, hands_on = _read_signature(function)
        accepted |= known
        if not takes_others:
            return accepted
        if not hands_on:
            return None
    return None


def _read_signature(function: Callable) -> tuple[set[str], bool, bool]:
    """Names that a function takes; whether it takes others; whether it hands those to its parent."""
    parameters = inspect.signature(function).parameters.values()
    others = next((each.name for each in parameters if each.kind is each.VAR_KEYWORD), None)
    known = {each.name for each in parameters} - {'self', 'args', others}
    if others is None:
        return known, False, False
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    # A text in the function may be a name that it takes out of the others.
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    # With another class in the brackets, it is not the next one that is called.
    own = function.__qualname__.rpartition('.')[0].rpartition('.')[2]
    hands_on = any(
        ast.unparse(call.func) in ('super().__init__', f'super({own}, self).__init__')
        and any(word.arg is None and ast.unparse(word.value) == others for word in call.keywords)
        for call in calls
    )
    texts = {text for text in texts if isinstance(text, str) and text.isidentifier()}
    return known | texts, True, hands_on


def _parameters(function: Callable) -> set[str]:
    return set(inspect.signature(function).parameters) - {'self', 'args', 'kwargs'}
