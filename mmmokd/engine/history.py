# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Logged values that stay on their device until somebody reads them.

mmengine turns every value into a number as it is logged, for which the host waits until the device
has computed it, several times a step. Here a step's values are copied on their device, by one
kernel, and read when the log, a checkpoint or anything else asks for them: all that is unread in one
transfer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from torch import Tensor

MAX_PENDING = 1000  # values of a history that wait; what is never read does not pile up


class _Reading:
    """Scalars of one moment and one data type, copied where they are, and not read yet."""

    unread: list[_Reading] = []

    def __init__(self, values: Sequence[Tensor]) -> None:
        # A copy: what a CUDA graph gives is overwritten when it runs again.
        self.values = torch.stack([value.detach().reshape(()) for value in values])
        self.numbers: list | None = None
        self.unread.append(self)

    def number(self, index: int) -> int | float:
        if self.numbers is None:
            self.read_all()
        return self.numbers[index]

    @classmethod
    def read_all(cls) -> None:
        """Read all readings, those of a device and data type by one transfer."""
        by_kind: dict[tuple, list[_Reading]] = {}
        for reading in cls.unread:
            kind = (reading.values.device, reading.values.dtype)
            by_kind.setdefault(kind, []).append(reading)
        cls.unread.clear()
        for readings in by_kind.values():
            numbers = iter(torch.cat([reading.values for reading in readings]).tolist())
            for reading in readings:
                reading.numbers = [next(numbers) for _ in range(len(reading.values))]
                del reading.values


class DeferredHistoryBuffer(HistoryBuffer):
    """A history of a logged value that takes scalars on any device and reads them when it is read.

    What is added waits in a list, so that adding a value takes the same time however long the
    history is. Copied or pickled, as into a checkpoint, it is mmengine's ``HistoryBuffer``.

    Args:
        log_history (Sequence[int | float]): Values so far. Defaults to none.
        count_history (Sequence[int]): How many values each stands for. Defaults to none.
        max_length (int): Values to keep. Defaults to 1000000.
    """

    def __init__(
        self,
        log_history: Sequence[int | float] = (),
        count_history: Sequence[int] = (),
        max_length: int = 1000000,
    ) -> None:
        self._pending: list[tuple[Any, int]] = []
        super().__init__(log_history, count_history, max_length)

    def update(self, log_val: int | float, count: int = 1) -> None:
        """Add a number.

        Args:
            log_val (int | float): The number.
            count (int): How many values it stands for. Defaults to 1.

        Raises:
            TypeError: If one of them is not a number.
        """
        if not isinstance(log_val, int | float) or not isinstance(count, int | float):
            raise TypeError(
                f'log_val and count must be numbers, but got {type(log_val)} and {type(count)}'
            )
        self._add(log_val, count)

    def _add(self, value: int | float | tuple[_Reading, int], count: int = 1) -> None:
        self._pending.append((value, count))
        if len(self._pending) >= MAX_PENDING:
            self._settle()

    def current(self) -> int | float | np.number:
        """The value added last; one that is a number already is given without a wait.

        Returns:
            int | float | np.number: The value.

        Raises:
            ValueError: If the history is empty.
        """
        if self._pending and not isinstance(self._pending[-1][0], tuple):
            return self._pending[-1][0]
        return super().current()

    def _settle(self) -> None:
        """Turn all that waits into numbers."""
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        values = [v[0].number(v[1]) if isinstance(v, tuple) else v for v, _ in pending]
        counts = [count for _, count in pending]
        if len(self._logs):
            values = np.append(self._logs, values)
            counts = np.append(self._counts, counts)
        self._logs = np.array(values)[-self.max_length :]
        self._counts = np.array(counts)[-self.max_length :]

    # mmengine's statistics, and those that others register with it, read these two attributes.
    @property
    def _log_history(self) -> np.ndarray:
        self._settle()
        return self._logs

    @_log_history.setter
    def _log_history(self, value: np.ndarray) -> None:
        self._logs = value

    @property
    def _count_history(self) -> np.ndarray:
        self._settle()
        return self._counts

    @_count_history.setter
    def _count_history(self, value: np.ndarray) -> None:
        self._counts = value

    def __reduce_ex__(self, protocol: int) -> tuple:
        plain = HistoryBuffer(max_length=self.max_length)
        plain._log_history, plain._count_history = self.data
        return plain.__reduce_ex__(protocol)


def defer_reading(message_hub: MessageHub, prefix: str) -> None:
    """Let the histories of a message hub wait to be read; see :class:`DeferredHistoryBuffer`.

    Args:
        message_hub (MessageHub): Its histories of mmengine's kind are replaced in place.
        prefix (str): Only those whose key begins so.
    """
    scalars = message_hub.log_scalars
    for key, history in scalars.items():
        if type(history) is HistoryBuffer and key.startswith(prefix):
            scalars[key] = DeferredHistoryBuffer(*history.data, max_length=history.max_length)


def update_scalars_later(
    message_hub: MessageHub, scalars: Mapping[str, Tensor | np.ndarray | int | float]
) -> None:
    """Log values, of which those of tensors are read from their device when the log is.

    It is mmengine's ``MessageHub.update_scalars`` but for the wait for the device.

    Args:
        message_hub (MessageHub): Where they are logged.
        scalars (Mapping[str, Tensor | np.ndarray | int | float]): One value for each key.

    Raises:
        ValueError: If a tensor has more than one element, or none.
    """
    together: dict[tuple, list[str]] = {}
    for key, value in scalars.items():
        if not isinstance(value, Tensor):
            message_hub.update_scalar(key, value)
            continue
        if value.numel() != 1:
            raise ValueError(
                f'{key} is to be logged as one number, but has the shape {tuple(value.shape)}'
            )
        message_hub._set_resumed_keys(key, True)  # mmengine has no public name for it
        history = message_hub.log_scalars.setdefault(key, DeferredHistoryBuffer())
        if not isinstance(history, DeferredHistoryBuffer):
            defer_reading(message_hub, key)
        together.setdefault((value.device, value.dtype), []).append(key)
    for keys in together.values():
        reading = _Reading([scalars[key] for key in keys])
        for index, key in enumerate(keys):
            message_hub.log_scalars[key]._add((reading, index))
