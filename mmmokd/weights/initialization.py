# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Initialization of weights that keeps what was loaded into a model.

mmengine draws a module's weights, then loads those of ``Pretrained``. But many classes continue and draw
again after that: a ViT its position embedding, a ResNet the last norm of every block, unless
``init_cfg`` is the one dict that they look for. And a Runner draws again what was loaded in Python
before it. So every module remembers, by name, which of its tensors were loaded, and each
``init_weights`` ends with their loaded values.

:func:`install` puts this into mmengine's ``BaseModule``, for the models of every library on top of it.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.model import BaseModule
from mmengine.model.weight_init import initialize
from torch import Tensor, nn

from mmmokd.utils.errors import CheckpointError
from mmmokd.utils.state_dict import name_some

from .loaded import is_pretrained, loaded_tensors, mark_loaded, pretrained_entries
from .mokd_checkpoint import backbone_prefix, default_network, list_branches
from .vit_names import vit_library

_INSTALLED = '_keeps_loaded_tensors'
_LOADERS = {'CheckpointLoader', '_load_checkpoint', 'load_checkpoint'}


class _Initialization:
    """One call of ``init_weights`` by a user or a Runner, with all calls below it."""

    def __init__(self, model: nn.Module) -> None:
        self.active: list[nn.Module] = []
        self.before = _loaded_values(model)  # what was loaded in Python counts before any init_cfg
        self.during: dict[nn.Module, dict[str, Tensor]] = {}

    def remember(self, module: nn.Module) -> None:
        """Take the values that loaded tensors have now for the loaded ones."""
        self.during.update(_loaded_values(module))

    @torch.no_grad()
    def restore(self, model: nn.Module) -> None:
        """Give loaded tensors their values back; what a class loaded by itself is remembered."""
        for module in model.modules():
            values = self.during.get(module, {}) | self.before.get(module, {})
            for name, tensor in loaded_tensors(module):
                if name in values:
                    tensor.copy_(values[name])
                else:
                    self.during.setdefault(module, {})[name] = tensor.detach().clone()


# Kept by BaseModule, whose methods use it: a notebook may import this package a second time.
_initialization: ContextVar[_Initialization | None] = vars(BaseModule).get(
    _INSTALLED, ContextVar('_initialization', default=None)
)


def _loaded_values(model: nn.Module) -> dict[nn.Module, dict[str, Tensor]]:
    values = {
        module: {name: tensor.detach().clone() for name, tensor in loaded_tensors(module)}
        for module in model.modules()
    }
    return {module: own for module, own in values.items() if own}


def remember_loaded(module: nn.Module) -> None:
    """Keep what has just been loaded into a module, if its model is being initialized.

    Args:
        module (nn.Module): Where an initializer loaded weights to.
    """
    if (current := _initialization.get()) is not None:
        current.remember(module)


@functools.cache
def reads_checkpoint_itself(cls: type) -> bool:
    """Tell whether a class reads the checkpoint of its ``init_cfg`` in its own ``init_weights``.

    mmseg's VisionTransformer, MAE, BEiT, SwinTransformer and PIDNet and mmdet's SwinTransformer,
    PyramidVisionTransformer and DetectoRS_ResNet do. They pass over a prefix, and load what fits.

    Args:
        cls (type): A class of modules.

    Returns:
        bool: Whether a line of it, or of a class above it, calls mmengine's loader.
    """
    for base in cls.__mro__:
        method = vars(base).get('init_weights')
        code = getattr(getattr(method, '__wrapped__', method), '__code__', None)
        if code is not None and _LOADERS & set(code.co_names):
            return True
    return False


def _must_take_over(module: nn.Module, entry: dict) -> bool:
    """Tell whether a class would pass over a part of ``init_cfg`` that our ``Pretrained`` reads."""
    if not reads_checkpoint_itself(type(module)):
        return False
    own = module.state_dict()
    plain_vit = vit_library(own) is not None and not any('relative_position' in key for key in own)
    return plain_vit or bool(entry.get('prefix'))


def _initialize(module: nn.Module, method: Callable, *args: Any, **kwargs: Any) -> Any:
    """Call a class's ``init_weights``, which gets to see ``Pretrained`` alone, as it may look for.

    That is in mmengine's order: any other initializer of the list, the module's children,
    ``Pretrained``.
    """
    init_cfg = getattr(module, 'init_cfg', None)
    loads = pretrained_entries(init_cfg)
    if not loads:
        return method(module, *args, **kwargs)
    loads = [ConfigDict(entry, type='Pretrained') for entry in loads]
    first_time = not getattr(module, 'is_init', False)
    if isinstance(init_cfg, list) and first_time:
        initialize(module, [entry for entry in init_cfg if not is_pretrained(entry)])
    take_over = _must_take_over(module, loads[0])
    module.init_cfg = None if take_over else loads[0]
    try:
        result = method(module, *args, **kwargs)
    except (AssertionError, AttributeError, IndexError, KeyError) as error:
        if take_over or not reads_checkpoint_itself(type(module)):
            raise
        raise CheckpointError(
            f'{type(module).__name__} reads {loads[0].get("checkpoint")} by itself, and finds nothing '
            f'there that it knows ({type(error).__name__}: {error}). With a prefix, it takes its own '
            'weights from below that name'
        ) from error
    finally:
        module.init_cfg = init_cfg
    if first_time:
        initialize(module, loads if take_over else loads[1:])
    return result


@contextmanager
def _keep_loaded(module: nn.Module) -> Iterator[None]:
    current = _initialization.get()
    token = None
    if current is None:
        current = _Initialization(module)
        token = _initialization.set(current)
    current.active.append(module)
    try:
        yield
        current.restore(module)
    finally:
        current.active.pop()
        if token is not None:
            _initialization.reset(token)


def _wrap(cls: type) -> None:
    method = vars(cls).get('init_weights')
    if not callable(method) or hasattr(method, _INSTALLED):
        return

    @functools.wraps(method)
    def init_weights(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        current = _initialization.get()
        if current is not None and any(module is self for module in current.active):
            return method(self, *args, **kwargs)  # by super().init_weights()
        with _keep_loaded(self):
            return _initialize(self, method, *args, **kwargs)

    setattr(init_weights, _INSTALLED, True)
    cls.init_weights = init_weights


def _wrap_subclasses(cls: type) -> None:
    _wrap(cls)
    for subclass in cls.__subclasses__():
        _wrap_subclasses(subclass)


def refuse_foreign(module: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Refuse weights that a model would pass over, and continue with random ones.

    Args:
        module (nn.Module): The model that is to load them.
        state_dict (Mapping[str, Tensor]): The weights, by their whole names.

    Raises:
        CheckpointError: If they are a MOKD's and not one of them is the model's; if the model's class
            has read them by itself, also if they are any other's.
    """
    name = type(module).__name__
    branches = list_branches(state_dict)
    current = _initialization.get()
    reading = current is not None and current.active and current.active[-1] is module
    if not branches and not (reading and reads_checkpoint_itself(type(module))):
        return
    own = module.state_dict()
    keys = [key for key in state_dict if key.startswith('branches.')] if branches else state_dict
    if not own or any(key in own for key in keys):
        return
    if not branches:
        raise CheckpointError(
            f'{name} would load nothing: of its {len(own)} weights, not one is among the '
            f'{len(state_dict)} of the checkpoint in its init_cfg, which has, for example, '
            f'{name_some(list(state_dict), 2)}, and not {next(iter(own))}'
        )
    ours = list_branches(own)
    if ours:
        raise CheckpointError(
            f'the checkpoint is of a MOKD with the branches {", ".join(branches)}, and not one of '
            f'its weights is for this {name} with the branches {", ".join(ours)}'
        )
    branch, networks = next(iter(branches.items()))
    raise CheckpointError(
        f'{name} would load nothing: the checkpoint is of a MOKD with the branches '
        f'{", ".join(branches)}. Instead of load_from or pretrained, give the backbone '
        f"init_cfg=dict(type='Pretrained', checkpoint=..., "
        f'prefix={backbone_prefix(branch, default_network(networks))!r})'
    )


def install() -> None:
    """Make mmengine's ``BaseModule``, and all classes of it, keep what was loaded; once is enough."""
    if _INSTALLED in vars(BaseModule):
        return

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        if not prefix:
            refuse_foreign(self, state_dict)
        super(BaseModule, self)._load_from_state_dict(state_dict, prefix, *args)
        # After it, for the module's own hooks may rename and resize.
        mark_loaded(self, state_dict, prefix)

    def __init_subclass__(cls, **kwargs) -> None:
        super(BaseModule, cls).__init_subclass__(**kwargs)
        _wrap(cls)

    BaseModule._load_from_state_dict = _load_from_state_dict
    BaseModule.__init_subclass__ = classmethod(__init_subclass__)
    _wrap_subclasses(BaseModule)
    setattr(BaseModule, _INSTALLED, _initialization)
