# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Environment variables by which the parts of a command, and its launcher, speak to each other."""

import os

ALLOW_CODE = 'MMMOKD_ALLOW_CODE_FROM_CHECKPOINT'
LAUNCHER_CHOSE_THREADS = 'MMMOKD_LAUNCHER_CHOSE_THREADS'
TRACEBACK = 'MMMOKD_TRACEBACK'
VERBOSE = 'MMMOKD_VERBOSE'
WEIGHTS_ONLY = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'  # of PyTorch
# The number of a process among all, before they join, by launcher.
RANKS = dict(pytorch='RANK', slurm='SLURM_PROCID', mpi='OMPI_COMM_WORLD_RANK')

SIZES = dict(pytorch='WORLD_SIZE', slurm='SLURM_NTASKS', mpi='OMPI_COMM_WORLD_SIZE')


def world_size(launcher: str) -> int | None:
    """Tell how many processes a run has, before they join.

    Args:
        launcher (str): ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.

    Returns:
        int | None: None if the launcher does not say.
    """
    text = '1' if launcher == 'none' else os.environ.get(SIZES.get(launcher, ''), '')
    return int(text) if text.isdecimal() else None


def is_first_process(launcher: str) -> bool:
    """Tell whether this is the only process, or the first, of a run whose processes did not yet join.

    Args:
        launcher (str): ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.

    Returns:
        bool: True for rank 0.
    """
    return os.environ.get(RANKS.get(launcher, ''), '0') == '0'
