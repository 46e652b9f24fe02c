# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Record of the tensors of a model that were loaded: every module keeps their names."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

_MARK = '_loaded_tensors'  # of a module: names of its own tensors that were loaded


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None and not is_lazy(tensor):
            yield name, tensor


def loaded_tensors(module: nn.Module) -> Iterable[tuple[str, Tensor]]:
    """A module's own tensors that were loaded since it was built.

    Args:
        module (nn.Module): The module; those below it do not count.

    Returns:
        Iterable[tuple[str, Tensor]]: Name and tensor.
    """
    names = module.__dict__.get(_MARK, ())
    return ((name, tensor) for name, tensor in _own_tensors(module) if name in names)


def loaded_names(model: nn.Module) -> set[str]:
    """Names of a model's tensors that were loaded since it was built.

    Args:
        model (nn.Module): Any model.

    Returns:
        set[str]: Names as in its state dict.
    """
    return {
        f'{path}.{name}'.lstrip('.')
        for path, module in model.named_modules()
        for name, _ in loaded_tensors(module)
    }


def mark_loaded(module: nn.Module, state_dict: Mapping[str, Tensor], prefix: str, *_: Any) -> None:
    """Note which tensors of a module a state dict has; a hook for the loading of plain modules.

    Args:
        module (nn.Module): The module; of those below it, plain ones of PyTorch count as its own.
        state_dict (Mapping[str, Tensor]): Weights of the whole model.
        prefix (str): What the names of the module's own begin with.
    """
    found = {
        name
        for name, tensor in _own_tensors(module)
        if getattr(state_dict.get(prefix + name), 'shape', None) == tensor.shape
    }
    if found:
        module.__dict__.setdefault(_MARK, set()).update(found)
    for name, child in module._modules.items():
        if child is not None and not isinstance(child, BaseModule):
            mark_loaded(child, state_dict, f'{prefix}{name}.')


def watch_plain_modules(model: nn.Module) -> None:
    """Note also what is loaded into parts of a model that are PyTorch's or timm's.

    Args:
        model (nn.Module): The model.
    """
    for module in model.modules():
        if not isinstance(module, BaseModule):
            module.register_load_state_dict_pre_hook(mark_loaded)


def pretrained_entries(init_cfg: dict | list[dict] | None) -> list[dict]:
    """The entries of an ``init_cfg`` that load weights.

    Args:
        init_cfg (dict | list[dict], optional): As a module has it.

    Returns:
        list[dict]: Those of type ``'Pretrained'``, in their order.
    """
    entries = [init_cfg] if isinstance(init_cfg, dict) else init_cfg or []
    return [entry for entry in entries if is_pretrained(entry)]


def is_pretrained(entry: Any) -> bool:
    """Tell whether an entry of an ``init_cfg`` loads weights.

    Args:
        entry (Any): The entry.

    Returns:
        bool: True for ``'Pretrained'``, in any scope, and for the class itself.
    """
    kind = entry.get('type') if isinstance(entry, dict) else None
    name = kind.rpartition('.')[2] if isinstance(kind, str) else getattr(kind, '__name__', '')
    return name in ('Pretrained', 'PretrainedInit')
