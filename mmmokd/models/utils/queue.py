# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from mmengine.dist import all_gather
from torch import Tensor, nn

from mmmokd.utils.errors import ConfigError

from .checks import check_counts

NO_VALUE = -1  # of a row that no image has filled yet


class EmbeddingQueue(nn.Module):
    """The last embeddings of a run, first in, first out: negatives, or anchors, of contrastive losses.

    The queue of `MoCo <https://arxiv.org/abs/1911.05722>`_. Several columns stay aligned: row n of
    each is of the same image, as with a student's and a teacher's embeddings, or with embeddings
    and the images' indices. Rows that no image has filled yet are random unit vectors, as in MoCo,
    of a fixed seed: all processes begin with the same.

    Everything is in buffers: columns by their names, and ``pointer``, the row that is overwritten
    next, which stays on the device. Where the length is not a multiple of the batch, a batch
    continues at the beginning of the queue.

    Rows are pushed once per optimizer step: while ``accumulating``, which
    :class:`~mmmokd.engine.hooks.HeadScheduleHook` sets, they wait for the last micro-batch. All
    micro-batches of a step then see the queue that the whole batch would see, so that accumulated =
    whole. Rows of all processes are gathered. Within a batch they come by process; no loss depends
    on the order of rows, and which are overwritten depends on it only in the batch that a queue
    cuts at its end.

    Rows that wait are not in the state dict, as gradients are not: a run that is resumed within a
    step begins the step again.

    Args:
        length (int): Number K of rows.
        embeddings (Mapping[str, int]): Width of each column of embeddings, by name. They are
            L2-normalized when they are pushed, in float32 at least, and kept as float32, also where
            the models run in half precision.
        values (Mapping[str, torch.dtype], optional): Columns of one value per row, such as indices
            of images, by name; -1 where no image has filled the row. Defaults to None.

    Attributes:
        accumulating (bool): Whether further micro-batches belong to the optimizer step.

    Raises:
        ConfigError: If ``length`` or a width is not a whole number of at least 1.

    Example:
        >>> queue = EmbeddingQueue(8, dict(student=4, teacher=6), dict(index=torch.long))
        >>> queue.push(student=torch.rand(3, 4), teacher=torch.rand(3, 6), index=torch.arange(3))
        >>> queue['teacher'].shape, queue['index'].tolist()
        (torch.Size([8, 6]), [0, 1, 2, -1, -1, -1, -1, -1])
    """

    def __init__(
        self,
        length: int,
        embeddings: Mapping[str, int],
        values: Mapping[str, torch.dtype] | None = None,
    ) -> None:
        super().__init__()
        check_counts('a queue', length=length, **embeddings)
        self.length = length
        self.embeddings = tuple(embeddings)
        self.values = tuple(values or ())
        generator = torch.Generator().manual_seed(0)  # leaves the run's random numbers alone
        for name, width in embeddings.items():
            rows = torch.randn(length, width, generator=generator)
            self.register_buffer(name, F.normalize(_widen(rows), dim=1))
        for name, dtype in (values or {}).items():
            self.register_buffer(name, torch.full((length,), NO_VALUE, dtype=dtype))
        self.register_buffer('pointer', torch.zeros((), dtype=torch.long))
        self.accumulating = False
        self._pending: list[dict[str, Tensor]] = []

    def extra_repr(self) -> str:
        return f'{self.length}, {", ".join((*self.embeddings, *self.values))}'

    def __getitem__(self, name: str) -> Tensor:
        """A column as it is now.

        A copy, which a backward pass after :meth:`push` can still use: read it once per step.

        Args:
            name (str): Its name.

        Returns:
            Tensor: Shape (K, C) for embeddings, with rows of length 1, or (K, ) for values.

        Raises:
            KeyError: If there is no such column.
        """
        if name not in (*self.embeddings, *self.values):
            raise KeyError(f'the queue has no {name!r}: it has {self.extra_repr()}')
        return getattr(self, name).clone()

    @torch.no_grad()
    def push(self, **rows: Tensor) -> None:
        """Put the images of this process, and of all others, in the place of the oldest.

        To be called once per forward pass in training, after the column was read.

        Args:
            **rows (Tensor): Each column by its name: embeddings, shape (B, C), values, shape (B, ).

        Raises:
            ConfigError: If the rows of an optimizer step are more than the queue has.
            ValueError: If a column is missing or unknown, or columns differ in their rows.
        """
        columns = (*self.embeddings, *self.values)
        counts = {name: len(value) for name, value in rows.items()}
        if counts.keys() != set(columns) or len(set(counts.values())) != 1:
            raise ValueError(
                f'a queue of {", ".join(columns)} takes as many rows of each, but got {counts}'
            )
        self._pending.append({name: self._convert(name, rows[name]) for name in columns})
        if self.accumulating:
            return
        step = {name: torch.cat([rows[name] for rows in self._pending]) for name in columns}
        self._pending.clear()
        self._write({name: torch.cat(all_gather(value)) for name, value in step.items()})

    def _convert(self, name: str, rows: Tensor) -> Tensor:
        column = getattr(self, name)
        if name in self.embeddings:
            with torch.autocast(rows.device.type, enabled=False):
                rows = F.normalize(_widen(rows), dim=1)
        return rows.to(column.dtype).contiguous()

    def _write(self, rows: dict[str, Tensor]) -> None:
        count = len(next(iter(rows.values())))
        if count > self.length:
            raise ConfigError(
                f'a queue of {self.length} embeddings is shorter than the {count} images of an '
                f'optimizer step (of all processes and micro-batches): give it at least {count}'
            )
        # On the device, without a wait for the pointer.
        places = (self.pointer + torch.arange(count, device=self.pointer.device)) % self.length
        for name, value in rows.items():
            getattr(self, name).index_copy_(0, places, value)
        self.pointer.add_(count).remainder_(self.length)


def _widen(rows: Tensor) -> Tensor:
    return rows.to(torch.promote_types(rows.dtype, torch.float32))
