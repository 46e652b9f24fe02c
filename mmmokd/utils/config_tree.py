# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Walk through a config."""

from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.config import Config


def get_node(cfg: Config, path: Sequence[str]) -> Any:
    """Look up a value in a config.

    Args:
        cfg (Config): The config.
        path (Sequence[str]): Keys and, of lists, indices, from the root.

    Returns:
        Any: A value.

    Raises:
        LookupError: If the place does not exist.
    """
    node = cfg._cfg_dict
    for part in path:
        if isinstance(node, list | tuple) and part.isdecimal():
            node = node[int(part)]
        elif isinstance(node, dict):
            node = node[part]
        else:
            raise LookupError(part)
    return node


def iter_dicts(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict]]:
    """Every dict of a config, with its place.

    Args:
        node (Any): A config's dict, or anything in it.
        path (tuple[str, ...]): The node's place. Defaults to (), the root.

    Yields:
        tuple[tuple[str, ...], dict]: Place and dict.
    """
    if isinstance(node, dict):
        yield path, node
        children = node.items()
    else:
        children = enumerate(node) if isinstance(node, list | tuple) else ()
    for key, child in children:
        yield from iter_dicts(child, (*path, str(key)))


def type_name(kind: Any) -> str:
    """A type without its scope or module.

    Args:
        kind (Any): A name, a class or None.

    Returns:
        str: ``'ResNet'`` of ``'mmpretrain.ResNet'`` or of the class; ``''`` of None.
    """
    text = kind if isinstance(kind, str) else getattr(kind, '__name__', '')
    return text.rpartition('.')[2]
