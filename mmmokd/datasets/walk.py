# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from .transforms.loading import LoadImage, Planner

# Where the wrappers of torch, mmengine and mmpretrain keep what they wrap.
DATASET_ATTRIBUTES = ('datasets', 'dataset', '_dataset')
TRANSFORM_ATTRIBUTES = ('transforms', 'pipelines', 'pipeline')


def _walk(node: Any, attributes: tuple[str, ...], seen: dict[int, Any]) -> Iterator[Any]:
    if isinstance(node, (list, tuple)):
        inner = node
    elif id(node) in seen:
        return
    else:
        seen[id(node)] = node  # keeps it alive, so that its id is not used twice
        yield node
        # Not getattr: some wrappers forward unknown attributes to what they wrap.
        own = getattr(node, '__dict__', {})
        inner = [own[name] for name in attributes if name in own]
    for child in inner:
        yield from _walk(child, attributes, seen)


def iter_datasets(dataset: Any) -> Iterator[Any]:
    """A dataset and those inside it: ``ConcatDataset``, ``RepeatDataset``, ``Subset`` and others.

    Args:
        dataset (Dataset): A dataset, wrapped or not.

    Yields:
        Dataset: Every dataset and every wrapper, once, in order.
    """
    return _walk(dataset, DATASET_ATTRIBUTES, {})


def iter_transforms(dataset: Any) -> Iterator[Any]:
    """The transforms of a dataset's own pipeline, also inside ``Compose``, ``MultiView``, ...

    Args:
        dataset (Dataset): A dataset; one without a pipeline has no transforms.

    Yields:
        object: Every transform, and every wrapper of transforms, once, in order.
    """
    return _walk(vars(dataset).get('pipeline', ()), TRANSFORM_ATTRIBUTES, {})


def link_decoding(dataset: Any) -> None:
    """Let every ``LoadImage`` decode no more than the transform right after it needs.

    That has to be one that can tell, as ``MultiCrop``: with a method ``plan``, see
    :meth:`~mmmokd.datasets.LoadImage.decode_for`.

    Args:
        dataset (Dataset): A dataset; the transforms of its own pipeline are changed in place.
    """
    for loader, follower in pairwise(iter_transforms(dataset)):
        if isinstance(loader, LoadImage) and isinstance(follower, Planner):
            loader.decode_for(follower)


def require_readable_images(dataset: Any) -> None:
    """Let an unreadable image be an error, with its path, wherever a dataset is in test mode.

    In training another image takes its place; a measure would be of other images than it says.

    Args:
        dataset (Dataset): A dataset, wrapped or not; those inside it that are in test mode, and have
            a :class:`~mmmokd.datasets.LoadImage`, are changed in place.
    """
    for inner in iter_datasets(dataset):
        if getattr(inner, 'test_mode', False):
            for transform in iter_transforms(inner):
                if isinstance(transform, LoadImage):
                    transform.skip_bad = False
