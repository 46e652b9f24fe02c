# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Which values a key of a config may have."""

import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

from mmmokd.cli.config_keys import nearest, role_of
from mmmokd.engine.runners.build_runner import DATALOADERS
from mmmokd.utils.config_tree import type_name

NUMBERS = (int, float, bool, type(None))
INFINITY = math.inf


class Rule(NamedTuple):
    """What a number must be.

    Attributes:
        low (float): The least value.
        high (float): The greatest value. Defaults to infinity.
        whole (bool): Whether it must be an integer. Defaults to False.
        also (tuple): Values that are right besides. Defaults to (None,).
        each (bool): Whether a list may stand for the number, in which each is checked. Defaults to
            False.
        above (bool): Whether ``low`` itself is wrong. Defaults to False.
    """

    low: float
    high: float = INFINITY
    whole: bool = False
    also: tuple = (None,)
    each: bool = False
    above: bool = False

    def fits(self, value: Any) -> bool:
        """Whether a value is right.

        Args:
            value (Any): The value.

        Returns:
            bool: True if it is.
        """
        if any(
            value is each or (value == each and type(value) is type(each)) for each in self.also
        ):
            return True
        if self.each and isinstance(value, list | tuple):
            return all(map(self.fits, value))
        if not isinstance(value, Real) or isinstance(value, bool):
            return False
        if self.above and value == self.low:
            return False
        return self.low <= value <= self.high and (not self.whole or value == int(value))

    def __str__(self) -> str:
        kind = 'an integer' if self.whole else 'a number'
        if self.above:
            text = f'{kind} above {self.low}'
        elif self.high == INFINITY:
            text = f'{kind} of {self.low} or more'
        else:
            text = f'{kind} from {self.low} to {self.high}'
        others = [repr(each) for each in self.also if each is not None]
        return ' or '.join([text, *others])


ONE = Rule(1, whole=True)
NATURAL = Rule(0, whole=True)
SHARE = Rule(0, 1)
SIZE = Rule(1, whole=True, each=True)
NOT_NEGATIVE = Rule(0)
POSITIVE = Rule(0, above=True, each=True)
NEVER_OR_ONE = Rule(1, whole=True, also=(-1, None))
# By what a dict is to the one around it, or by its type, then by key. '*' is any dict.
RULES: dict[str, dict[str, Rule]] = {
    'dataloader': dict(
        batch_size=Rule(1, whole=True, also=()),
        num_workers=Rule(0, whole=True, also=()),
        prefetch_factor=ONE,
        num_batch_per_epoch=ONE,
        timeout=NOT_NEGATIVE,
    ),
    'train_cfg': dict(
        max_epochs=Rule(1, whole=True, also=()),
        max_iters=Rule(1, whole=True, also=()),
        val_interval=Rule(1, whole=True, also=()),
        val_begin=NATURAL,
    ),
    'randomness': dict(seed=Rule(0, 2**32 - 1, whole=True)),
    'auto_scale_lr': dict(base_batch_size=Rule(1, whole=True, also=())),
    'log_processor': dict(window_size=ONE),
    'optim_wrapper': dict(accumulative_counts=ONE),
    'clip_grad': dict(max_norm=POSITIVE, clip_value=POSITIVE),
    'optimizer': dict(
        lr=NOT_NEGATIVE, weight_decay=NOT_NEGATIVE, momentum=SHARE, eps=Rule(0, each=True)
    ),
    'parts': dict(lr=NOT_NEGATIVE, weight_decay=NOT_NEGATIVE),
    'default_hooks': dict(
        interval=NEVER_OR_ONE,
        max_keep_ckpts=NEVER_OR_ONE,
        base_momentum=SHARE,
        freeze_epochs=NOT_NEGATIVE,
    ),
    'param_scheduler': dict(
        begin=NOT_NEGATIVE, end=NOT_NEGATIVE, eta_min=NOT_NEGATIVE, warmup=NOT_NEGATIVE
    ),
    'branches': dict(cross_weight=Rule(0, also=())),
    'pipeline': dict(crop_size=SIZE, size=SIZE, scale=POSITIVE),
    'heads': dict(
        center_momentum=SHARE, loss_weight=NOT_NEGATIVE, warmup_teacher_temp_epochs=NOT_NEGATIVE
    ),
    'LoggerHook': dict(interval=Rule(1, whole=True, also=())),
    'MOKD': dict(num_global_views=Rule(1, whole=True, also=())),
    '*': dict(
        img_size=SIZE,
        patch_size=SIZE,
        in_channels=SIZE,
        embed_dims=SIZE,
        out_channels=SIZE,
        drop_path_rate=Rule(0, 1, each=True),
        drop_rate=SHARE,
    ),
}
RULES['custom_hooks'] = RULES['default_hooks']
# By place.
CHOICES: dict[tuple[str, ...], tuple] = {
    ('log_level',): ('DEBUG', 'INFO', 'WARNING', 'ERROR', 'CRITICAL'),
    ('launcher',): ('none', 'pytorch', 'slurm', 'mpi'),
    ('sync_bn',): ('torch', 'mmcv', None),
    ('env_cfg', 'mp_cfg', 'mp_start_method'): ('fork', 'spawn', 'forkserver'),
}
TEXTS = (('load_from',), ('work_dir',), ('default_scope',))
# What a Runner reads at the top of a config, and builds from.
DICTS = (
    *DATALOADERS,
    *('model', 'optim_wrapper', 'train_cfg', 'val_cfg', 'test_cfg', 'default_hooks', 'env_cfg'),
    *('visualizer', 'randomness', 'log_processor', 'auto_scale_lr', 'data_preprocessor'),
)
LISTS = ('custom_hooks',)
DICTS_OR_LISTS = ('param_scheduler', 'val_evaluator', 'test_evaluator')
SWITCHES = ('by_epoch', 'cudnn_benchmark', 'deterministic', 'diff_rank_seed', 'enable', 'resume')
# Attributes of classes of mmpretrain, mmdet and mmseg that say what an argument may be.
TABLES = dict(depth=('arch_settings',), arch=('arch_zoo', 'arch_settings'))


def wrong_value(
    path: Sequence[str], node: Mapping, key: str, annotation: Any, targets: Sequence[Callable]
) -> str | None:
    """What is wrong with a value.

    Args:
        path (Sequence[str]): Place of the dict, () for a whole config.
        node (Mapping): The dict.
        key (str): Its key.
        annotation (Any): The type that the class asks for, if it does.
        targets (Sequence[Callable]): Classes that it may be built from.

    Returns:
        str, optional: ``'should be an integer of 1 or more, not 0'``; None if nothing is known to
        be wrong.
    """
    value, place = node[key], (*path, key)
    kind = type_name(node.get('type'))
    allowed = _by_rule(path, kind, key, value) or _by_annotation(path, annotation, value)
    if allowed is None and key in SWITCHES and not isinstance(value, bool | int | None):
        allowed = 'True or False'
    if allowed is None and not path and value is not None:
        allowed = _structure(key, value)
    if allowed is None and place in TEXTS and not isinstance(value, str | None):
        allowed = 'a text'
    if allowed is None and place in CHOICES and value not in CHOICES[place]:
        allowed = f'one of {", ".join(map(str, CHOICES[place]))}'
    if allowed is not None:
        return f'should be {allowed}, not {value!r}'
    return _by_table(key, value, targets)


def _structure(key: str, value: Any) -> str | None:
    """What stands at the top of a config under a name, if the value is something else."""
    if key in DICTS and not isinstance(value, dict):
        return 'a dict'
    if key in LISTS and not isinstance(value, list | tuple):
        return 'a list'
    if key in DICTS_OR_LISTS and not isinstance(value, dict | list | tuple):
        return 'a dict or a list'
    return None


def _by_rule(path: Sequence[str], kind: str, key: str, value: Any) -> str | None:
    if not path:
        return None
    role = role_of(path)
    if role in (*DATALOADERS, 'bank_dataloader'):
        role = 'dataloader'
    if len(path) > 2 and path[-2] in ('branches', 'parts', 'heads'):
        role = path[-2]
    for rules in (RULES.get(kind, {}), RULES.get(role, {}), RULES['*']):
        rule = rules.get(key)
        if rule and not rule.fits(value):
            return str(rule)
        if rule:
            break
    return None


def _by_annotation(path: Sequence[str], annotation: Any, value: Any) -> str | None:
    """What a class asks for, where that is a number and the value is a text."""
    if path[:1] == ('model',) and annotation is bool:  # often with a text besides, in libraries
        return None
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    kinds = typing.get_args(annotation) if union else (annotation,)
    if not isinstance(value, str) or any(kind not in NUMBERS for kind in kinds):
        return None
    names = {bool: 'True or False', int: 'an integer', float: 'a number', type(None): 'None'}
    return ' or '.join(names[kind] for kind in kinds)


def _by_table(key: str, value: Any, targets: Sequence[Callable]) -> str | None:
    """Names of architectures and depths that a class has."""
    if key not in TABLES or not isinstance(value, str | int):
        return None
    tables = [_table(target, name) for target in targets for name in TABLES[key]]
    known = [entry for table in tables for entry in table or ()]
    wanted = value.lower() if isinstance(value, str) else value
    if not known or wanted in known or value in known or value in map(_lower, known):
        return None
    return f'should be one of {_listed(known)}, not {value!r}.{nearest(str(value), known)}'


def _table(target: Callable, name: str) -> dict | None:
    """A table of a class, if no class that extends it adds to the table as it is built."""
    for cls in getattr(target, '__mro__', ()):
        if name in vars(cls):
            return vars(cls)[name] if isinstance(vars(cls)[name], dict) else None
        code = getattr(vars(cls).get('__init__'), '__code__', None)
        if code is not None and name in code.co_names:
            return None
    return None


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _listed(values: Iterable) -> str:
    values = list(dict.fromkeys(values))
    shown = [value for value in values if not isinstance(value, str) or len(value) > 2] or values
    return ', '.join(map(str, shown))
