# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Peak memory, on the CPU and on a GPU."""

import ctypes
import gc
import re
import sys
from contextlib import suppress
from pathlib import Path

import torch

from .result import NotMeasuredError


def peak_rss() -> int:
    """Peak resident memory of this process.

    Returns:
        int: Bytes.

    Raises:
        NotMeasuredError: On a system that does not tell.
    """
    try:
        import resource
    except ImportError as error:  # Windows
        raise NotMeasuredError('this system does not tell the peak memory of a process') from error
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == 'darwin' else 1024 * peak


class PeakMemory:
    """Measures the peak of what is allocated, or in total reserved, within a ``with`` block.

    On the CPU from the process's resident memory, of which Linux lets the peak be reset.

    Args:
        device (str): ``'cpu'`` or ``'cuda'``.
        total (bool): Whether what was allocated before counts. Defaults to False.

    Attributes:
        bytes (int): The peak, after the block.

    Raises:
        NotMeasuredError: On the CPU, when entered, on a system other than Linux.
    """

    def __init__(self, device: str, total: bool = False) -> None:
        self.device = device
        self.total = total
        self.bytes = 0

    def __enter__(self) -> 'PeakMemory':
        gc.collect()
        if self.device == 'cuda':
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
            return self
        with suppress(OSError, AttributeError):
            ctypes.CDLL('libc.so.6').malloc_trim(0)
        try:
            Path('/proc/self/clear_refs').write_text('5')
            self._before = _status('VmRSS')
        except OSError as error:
            raise NotMeasuredError('only Linux lets the peak memory be reset') from error
        return self

    def __exit__(self, *_) -> None:
        if self.device == 'cuda':
            torch.cuda.synchronize()
            # Of what a CUDA graph keeps, only the reserved memory tells.
            stats = (
                torch.cuda.max_memory_reserved if self.total else torch.cuda.max_memory_allocated
            )
            peak = stats()
        else:
            peak = _status('VmHWM')
        self.bytes = peak - (0 if self.total else self._before)


def _status(key: str) -> int:
    """A size in /proc/self/status, in bytes."""
    text = Path('/proc/self/status').read_text()
    return 1024 * int(re.search(rf'^{key}:\s+(\d+) kB', text, re.MULTILINE)[1])
