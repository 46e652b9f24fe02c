# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Environment variables by which launchers and parts of a command speak to each other."""

import os

ALLOW_CODE = 'MMMOKD_ALLOW_CODE_FROM_CHECKPOINT'
LAUNCHER_CHOSE_THREADS = 'MMMOKD_LAUNCHER_CHOSE_THREADS'
TRACEBACK = 'MMMOKD_TRACEBACK'
VERBOSE = 'MMMOKD_VERBOSE'
WEIGHTS_ONLY = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'  # of PyTorch

# The rank of a process before the processes join, by launcher.
RANK_VARIABLES = dict(pytorch='RANK', slurm='SLURM_PROCID', mpi='OMPI_COMM_WORLD_RANK')


def is_first_process(launcher: str) -> bool:
    """Whether this is the only or the first process of a run whose processes have not joined yet.

    Args:
        launcher (str): ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.

    Returns:
        bool: True for rank 0.
    """
    return os.environ.get(RANK_VARIABLES.get(launcher, ''), '0') == '0'
