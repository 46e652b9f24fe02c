# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import torch
from mmengine.dataset import DefaultSampler
from mmengine.dist import all_gather, all_gather_object, get_rank, get_world_size
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, SequentialSampler

from mmmokd.utils.errors import ConfigError, DataError

FIXED_ORDER_SAMPLERS = (DefaultSampler, SequentialSampler, DistributedSampler)
GATHER_BYTES = 64 << 20


def sample_order(dataloader: DataLoader) -> list[int]:
    """Dataset indices of the images that a dataloader is going to give, in their order.

    The order is the sampler's: an index that a sample carries with it counts within its own
    dataset, and repeats in a concatenation of datasets.

    Args:
        dataloader (DataLoader): Its sampler gives the same order each time that it is asked.

    Returns:
        list[int]: This process's indices, padding included.

    Raises:
        DataError: If the dataset is empty, the sampler's order is not fixed, or images would be
            dropped from an incomplete last batch.
    """
    size = len(dataloader.dataset)
    if size == 0:
        raise DataError(f'the dataset {type(dataloader.dataset).__name__} has no images')
    sampler, batches = dataloader.sampler, dataloader.batch_sampler
    if not isinstance(sampler, FIXED_ORDER_SAMPLERS) or type(batches) is not BatchSampler:
        found = sampler if type(batches) is BatchSampler else batches
        raise ConfigError(
            'evaluating features needs a dataloader whose order is known: '
            f"sampler=dict(type='DefaultSampler', shuffle=False), but got {type(found).__name__}"
        )
    order = list(sampler)
    left = len(order) % batches.batch_size
    if batches.drop_last and left:
        raise ConfigError(
            f'drop_last=True would lose {left} of {len(order)} images of '
            f'{type(dataloader.dataset).__name__}: evaluation needs drop_last=False'
        )
    return order


def gather_by_index(
    local: dict[str, Tensor], order: list[int], size: int, on_all_ranks: bool = True
) -> dict[str, Tensor] | None:
    """Join what several processes have of one dataset, each image once, in the dataset's order.

    Processes may have different numbers of images, none included. It goes by chunks, so that a
    backend that works on the GPU needs little memory there.

    Args:
        local (dict[str, Tensor]): This process's values by name, each of shape (len(order), ...);
            empty if it has no images.
        order (list[int]): Dataset index of each row.
        size (int): Number of images in the dataset.
        on_all_ranks (bool): Whether every process gets the result, or rank 0 alone. Defaults to
            True.

    Returns:
        dict[str, Tensor] | None: Shape (size, ...) for each; None on a rank without a result.

    Raises:
        DataError: If an image is in no process.
    """
    orders = [torch.tensor(each, dtype=torch.long) for each in all_gather_object(order)]
    seen = torch.zeros(size, dtype=torch.bool)
    for each in orders:
        seen[each] = True
    if not seen.all():
        raise DataError(
            f'{int((~seen).sum())} of {size} images were given to no process by the sampler'
        )
    if get_world_size() == 1 and order == list(range(size)):
        return local
    specs = {}
    for spec in all_gather_object({n: (v.shape[1:], v.dtype) for n, v in local.items()}):
        specs.update(spec)
    keep = on_all_ranks or get_rank() == 0
    merged = {}
    for name, (shape, dtype) in specs.items():
        values = local.get(name, torch.empty(0, *shape, dtype=dtype))
        out = torch.empty(size, *shape, dtype=dtype) if keep else None
        _gather_rows(values, orders, out)
        merged[name] = out
    return merged if keep else None


def _gather_rows(values: Tensor, orders: list[Tensor], out: Tensor | None) -> None:
    """Gather rows of all processes by chunks and put each at its index of ``out``."""
    longest = max(len(order) for order in orders)
    row_bytes = values.element_size() * max(1, values.shape[1:].numel())
    step = max(1, GATHER_BYTES // (row_bytes * len(orders)))
    for start in range(0, longest, step):
        rows = slice(start, min(start + step, longest))
        # Collectives need one shape on all processes; what is padded here is cut off below.
        chunk = values.new_zeros(rows.stop - rows.start, *values.shape[1:])
        chunk[: len(values[rows])] = values[rows]
        for order, part in zip(orders, all_gather(chunk), strict=True):
            if out is not None:
                out[order[rows]] = part[: len(order[rows])]
