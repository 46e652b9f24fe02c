# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Reading values from a device that computes while the host prepares what is next."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # this package's commands import it before they need PyTorch
    from torch import Tensor


def is_asynchronous(tensor: Tensor) -> bool:
    """Check whether the host would have to wait for a tensor's device in order to read it.

    Args:
        tensor (Tensor): On any device.

    Returns:
        bool: False on the CPU, where what is computed can be read.
    """
    return tensor.device.type != 'cpu'


def start_reading(tensor: Tensor) -> Callable[[], list]:
    """Start to copy a small tensor to the host.

    Args:
        tensor (Tensor): On any device.

    Returns:
        Callable[[], list]: Gives its values; on a CUDA device it waits for the copy, and not for what
        the device has to do after it.
    """
    import torch

    if not tensor.is_cuda:
        return tensor.tolist
    copy = torch.empty_like(tensor, device='cpu', pin_memory=True)
    copy.copy_(tensor, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def read() -> list:
        copied.synchronize()
        return copy.tolist()

    return read
