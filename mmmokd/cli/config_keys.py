# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Which keys a dict of a config may have, by its place and its type."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.dist import init_dist
from mmengine.optim import AmpOptimWrapper, OptimWrapper
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
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.utils.data import DataLoader

from mmmokd.cli.config_types import (
    ANY_TYPE,
    Arguments,
    FoundTypes,
    arguments_of,
    common_arguments,
    find_types,
    registered_names,
)
from mmmokd.engine.runners.build_runner import DATALOADERS, MMENGINE_HOOKS
from mmmokd.utils.config_tree import get_node, type_name

UNKNOWN = Arguments(None)
# What mmengine takes out of a dict, or reads there, besides the arguments of what it builds.
LOADER_KEYS = frozenset({'num_batch_per_epoch', 'disable_subprocess_warning'})
EXTRA = {
    'default_hooks': {'priority'},
    'custom_hooks': {'priority'},
    'param_scheduler': {'convert_to_iter_based'},
    'train_cfg': {'by_epoch'},
}
# What a Runner, and not the config, gives to the classes that it builds.
GIVEN = {
    'optimizer': {'params'},
    'param_scheduler': {'optimizer', 'epoch_length'},
    'sampler': {'dataset'},
    'batch_sampler': {'sampler', 'batch_size'},
    'train_cfg': {'runner', 'dataloader'},
    'val_cfg': {'runner', 'dataloader', 'evaluator'},
    'test_cfg': {'runner', 'dataloader', 'evaluator'},
    'vis_backends': {'save_dir'},
    'model_wrapper_cfg': {'module', 'model'},
}
# Names of the registries of what a dict is to the one around it.
REGISTRIES = {
    'dataset': ('dataset',),
    'pipeline': ('transform',),
    'sampler': ('data sampler', 'sampler'),
    'batch_sampler': ('data sampler', 'sampler'),
    'optim_wrapper': ('optim_wrapper', 'optimizer_wrapper'),
    'optimizer': ('optimizer',),
    'param_scheduler': ('parameter scheduler',),
    'default_hooks': ('hook',),
    'custom_hooks': ('hook',),
    'train_cfg': ('loop',),
    'val_cfg': ('loop',),
    'test_cfg': ('loop',),
    'val_evaluator': ('metric', 'evaluator'),
    'test_evaluator': ('metric', 'evaluator'),
    'visualizer': ('visualizer',),
    'vis_backends': ('vis_backend',),
}
MODEL = ('model',)
MODEL_PARTS = (
    'model',
    'backbone',
    'neck',
    'head',
    'decode_head',
    'auxiliary_head',
    'rpn_head',
    'roi_head',
    'bbox_head',
    'mask_head',
    'projector',
    'search_head',
    'data_preprocessor',
)
FIXED = {
    ('auto_scale_lr',): {'base_batch_size', 'enable'},
    ('custom_imports',): {'imports', 'allow_failed_imports'},
    ('env_cfg',): {'cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'},
}
# Dicts by name whose entries are no arguments; what every entry has.
BY_NAME = {
    ('default_hooks',): 'type',
    ('model', 'branches'): 'backbone',
    ('optim_wrapper', 'branches'): 'optimizer',
}
BY_OWN_NAME = ('default_hooks', 'param_scheduler')
OWN_CONSTRUCTOR = 'BranchOptimWrapperConstructor'
OWN_MODEL = 'MOKD'
PARTS = ('backbone', 'projector', 'search_head')
HEADS = ('sm', 'st', 'cm', 'ct')


def nearest(key: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """A hint at what was meant, for the end of a message.

    Args:
        key (str): What was found.
        known (Iterable[str]): What may be there.
        cutoff (float): How near a name must be, 1 for equal. Defaults to 0.6.

    Returns:
        str: ``' Did you mean NAME?'``, or nothing if no name is near.
    """
    similar = difflib.get_close_matches(key, sorted(map(str, known)), n=1, cutoff=cutoff)
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


def scope_at(cfg: Config, path: Sequence[str]) -> str:
    """The scope of the types in a dict of a config.

    Args:
        cfg (Config): The config.
        path (Sequence[str]): The dict's place.

    Returns:
        str: ``_scope_`` of the dict or of one around it, else the default.
    """
    scope, node = cfg.get('default_scope') or 'mmpretrain', cfg._cfg_dict
    for part in path:
        node = node[int(part)] if isinstance(node, list | tuple) else node[part]
        if isinstance(node, dict) and 'type' in node:
            scope = node.get('_scope_') or scope
    return scope


def arguments_at(cfg: Config, path: Sequence[str]) -> Arguments:
    """Arguments that a dict of a config may have.

    Args:
        cfg (Config): The config.
        path (Sequence[str]): The dict's place.

    Returns:
        Arguments: What reads the dict, or is built from it, takes them.
    """
    path, node = tuple(path), get_node(cfg, path)
    if not isinstance(node, dict) or not path:
        return UNKNOWN
    if path[-1] == 'data_preprocessor' and 'type' not in node:
        return _of_preprocessors(cfg, path)
    if path in FIXED:
        return Arguments(frozenset(FIXED[path]))
    found = _of_runner(path, node) or _of_own(cfg, path)
    if found is None and 'type' in node and is_built_as_it_is(path):
        found = _of_type(cfg, path)
    return found or UNKNOWN


def known_keys(cfg: Config, path: Sequence[str]) -> set[str] | None:
    """Which keys a dict of a config may have.

    Args:
        cfg (Config): The config.
        path (Sequence[str]): The dict's place.

    Returns:
        set[str], optional: What is built from the dict takes them; None if that cannot be told, as
        of dicts that are handed on as they are.
    """
    names = arguments_at(cfg, path).names
    return None if names is None else set(names)


def keys_of_type(cfg: Config, kind: Any) -> set[str] | None:
    """Which keys a dict of a type may have.

    Args:
        cfg (Config): The config, for its scope.
        kind (Any): A name, a class or None.

    Returns:
        set[str], optional: What any registered class or function of that name takes; None if that
        cannot be told.
    """
    targets, _ = find_types(kind, scope_at(cfg, ()))
    names = common_arguments(targets).names
    return None if names is None else {*names, *ANY_TYPE}


def is_built_as_it_is(path: tuple[str, ...]) -> bool:
    """Whether a dict with a type goes to its class as it is.

    Args:
        path (tuple[str, ...]): The dict's place.

    Returns:
        bool: False where somebody takes keys out before, or where the dict may only be a variable.
    """
    if path == ('optim_wrapper',) or path[0] not in inspect.signature(Runner.__init__).parameters:
        return False
    # A layer's init_cfg, norm_cfg and the like, and random augmentations, have such keys.
    return 'policies' not in path and not (len(path) > 1 and path[-1].endswith('_cfg'))


def role_of(path: Sequence[str]) -> str:
    """What a dict is to the one around it.

    Args:
        path (Sequence[str]): The dict's place.

    Returns:
        str: The last key of the place that is not the index of a list; of hooks and schedulers,
        the first.
    """
    names = [part for part in path if not part.isdecimal()] or [path[-1]]
    if names[0] in BY_OWN_NAME and len(names) <= 2:  # an entry by the name that its user gave it
        return names[0]
    return names[-1]


def _of_preprocessors(cfg: Config, path: tuple[str, ...]) -> Arguments:
    """What any preprocessor of data takes: its type is up to the model."""
    scope = scope_at(cfg, path)
    names = [name for name in registered_names(scope, MODEL) if name.endswith('DataPreprocessor')]
    targets = [each for name in names for each in find_types(name, scope, MODEL).targets]
    known = [arguments_of(each).names or () for each in targets]
    return Arguments(frozenset({*ANY_TYPE}.union(*known))) if known else UNKNOWN


def registry_of(path: Sequence[str]) -> tuple[str, ...]:
    """Which registries the type of a dict is looked up in.

    Args:
        path (Sequence[str]): The dict's place.

    Returns:
        tuple[str, ...]: Their names; () where that is up to the class around the dict.
    """
    role = role_of(path)
    if path[0] == 'model':
        return MODEL if role in MODEL_PARTS else ()
    return REGISTRIES.get(role, ())


def types_at(cfg: Config, path: Sequence[str]) -> FoundTypes:
    """Classes that a dict of a config may be built from.

    Args:
        cfg (Config): The config.
        path (Sequence[str]): The dict's place; it has a ``type``.

    Returns:
        FoundTypes: The classes and functions.
    """
    return find_types(get_node(cfg, path)['type'], scope_at(cfg, path), registry_of(path))


def _of_type(cfg: Config, path: tuple[str, ...]) -> Arguments | None:
    found = common_arguments(types_at(cfg, path).targets)
    role = role_of(path)
    found = found._replace(required=found.required - GIVEN.get(role, set()))
    return found.with_names(ANY_TYPE | EXTRA.get(role, set()))


def _of_runner(path: tuple[str, ...], node: dict) -> Arguments | None:
    """Arguments of the dicts that a Runner reads itself."""
    if path[-1] in (*DATALOADERS, 'bank_dataloader'):
        loader = arguments_of(DataLoader)
        # What a bank's lacks comes from the queries' loader.
        required = frozenset() if path[-1] == 'bank_dataloader' else {'dataset', 'sampler'}
        return loader.with_names(LOADER_KEYS)._replace(required=frozenset(required))
    if path == ('optim_wrapper',):
        return _of_optim_wrapper(node)
    if path == ('optim_wrapper', 'clip_grad'):
        found = _union((clip_grad_norm_, clip_grad_value_)).without({'parameters'})
        return found._replace(required=frozenset()).with_names({'type', 'per_parameter'})
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
    found = _union(callables[path])
    given = {'runner', 'dataloader', 'evaluator', 'launcher', 'distributed', 'self'}
    if path[0] == 'env_cfg':  # each needs what it needs only where it is called
        found = found._replace(required=frozenset())
    if path[-1] == 'dist_cfg':
        found = found.with_names({'port'})  # of Slurm's processes
    return found.without(given).with_names(EXTRA.get(path[0], ()))


def _union(callables: Iterable[Callable]) -> Arguments:
    """What several functions take together."""
    names, annotations, required = set(), {}, set()
    for function in callables:
        for name, each in inspect.signature(function).parameters.items():
            if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL):
                names.add(name)
                annotations.setdefault(name, each.annotation)
                if each.default is each.empty:
                    required.add(name)
    return Arguments(frozenset(names), frozenset(required), annotations)


def _of_optim_wrapper(node: dict) -> Arguments | None:
    constructor, kind = (type_name(node.get(key)) for key in ('constructor', 'type'))
    if kind not in ('', 'OptimWrapper', 'AmpOptimWrapper'):
        return None
    # Also those of mixed precision, which --amp turns on later.
    found = _union((OptimWrapper.__init__, AmpOptimWrapper.__init__)).without({'self'})
    found = found._replace(required=frozenset())
    known = found.with_names({*ANY_TYPE, 'constructor'})
    if constructor == OWN_CONSTRUCTOR:
        return known.with_names({'branches'})
    known = known.with_names({'paramwise_cfg'})
    return known if constructor in ('', 'DefaultOptimWrapperConstructor') else None


def _of_own(cfg: Config, path: tuple[str, ...]) -> Arguments | None:
    """Arguments of the dicts that this package reads itself."""
    if path[:-1] == ('model', 'branches') and type_name(cfg.model.get('type')) == OWN_MODEL:
        from mmmokd.models.branches import Branch

        return arguments_of(Branch).without({'peers'})
    if path[:2] == ('model', 'branches') and path[3:4] == ('heads',) and len(path) < 6:
        return _of_heads(path)
    own = type_name((cfg.get('optim_wrapper') or {}).get('constructor')) == OWN_CONSTRUCTOR
    if own and path[:2] == ('optim_wrapper', 'branches'):
        if len(path) == 3:
            return Arguments(frozenset({'optimizer', 'parts'}))
        if len(path) == 4 and path[3] == 'parts':
            return Arguments(frozenset(PARTS))
        if len(path) == 5 and path[3] == 'parts':
            return Arguments(frozenset({'lr', 'weight_decay', 'decay_all'}))
    return None


def _of_heads(path: tuple[str, ...]) -> Arguments | None:
    """Arguments of a branch's loss heads, which update the default ones."""
    from mmmokd.models.heads import DistillationHead, SearchDistillationHead

    if len(path) == 4:
        return Arguments(frozenset(HEADS))
    head = SearchDistillationHead if path[4] == 'ct' else DistillationHead
    return arguments_of(head).with_names({'type'})._replace(required=frozenset())


def entries_by_name(cfg: Config, path: Sequence[str]) -> str | None:
    """What every entry of a dict has, where the names of the entries are free.

    Args:
        cfg (Config): The config.
        path (Sequence[str]): The dict's place.

    Returns:
        str, optional: A key of the entries; None for other dicts.
    """
    path = tuple(path)
    if path == ('model', 'branches') and type_name(cfg.model.get('type')) != OWN_MODEL:
        return None
    return BY_NAME.get(path)


def names_of_entries(path: Sequence[str]) -> set[str]:
    """Names that an entry of such a dict may have without what every other entry has.

    Args:
        path (Sequence[str]): The dict's place.

    Returns:
        set[str]: Of default hooks, those that mmengine itself has; else none.
    """
    return set(MMENGINE_HOOKS) if tuple(path) == ('default_hooks',) else set()
