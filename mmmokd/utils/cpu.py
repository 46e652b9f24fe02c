# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The CPUs that a run has, and what its threads do with them."""

import os
from collections.abc import MutableMapping
from pathlib import Path

from mmmokd.utils.environment import LAUNCHER_CHOSE_THREADS

# GNU OpenMP's threads spin for milliseconds at the end of each of a step's thousands of parallel
# regions. Where anything else wants the CPU, those that are waited for do not get it. Asleep, they
# wake up late on a quiet machine. They spin for some ten microseconds, and then sleep.
WAIT_POLICY = {'OMP_WAIT_POLICY': 'PASSIVE', 'GOMP_SPINCOUNT': '1000'}
# Of whoever sets one of these, or of another OpenMP's, the choice is his own.
WAIT_VARIABLES = (*WAIT_POLICY, 'KMP_BLOCKTIME')
THREAD_VARIABLES = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS')


def set_wait_policy(environ: MutableMapping[str, str] = os.environ) -> None:
    """Choose how threads wait, which OpenMP reads as PyTorch is imported: call it before.

    Args:
        environ (MutableMapping[str, str]): Environment variables; nothing is changed where one of
            them says how to wait. Defaults to those of this process.
    """
    if not any(name in environ for name in WAIT_VARIABLES):
        environ.update(WAIT_POLICY)


def available_cpus(root: Path = Path('/')) -> int:
    """Count the CPUs that this process may use: those it is bound to, within the quota of its container.

    Args:
        root (Path): Where the file system begins. Defaults to ``/``.

    Returns:
        int: At least 1.
    """
    if hasattr(os, 'sched_getaffinity'):  # not on macOS
        bound = len(os.sched_getaffinity(0))
    else:
        bound = os.cpu_count() or 1
    return max(1, min([bound, *map(round, _quotas(root))]))


def _quotas(root: Path) -> list[float]:
    """CPUs that control groups, of the second or the first version, grant this process."""
    try:
        lines = (root / 'proc/self/cgroup').read_text().splitlines()
    except OSError:
        return []
    quotas = []
    for line in lines:
        _, controllers, group = line.split(':', 2)
        if controllers and 'cpu' not in controllers.split(','):
            continue
        tree = root / 'sys/fs/cgroup' / ('cpu' if controllers else '')
        folder = tree / group.lstrip('/')
        # In a container the path may be that of the host, while the tree begins at its own group.
        for place in (folder, *folder.parents):
            if not place.is_relative_to(tree):
                break
            if (quota := _quota(place)) is not None:
                quotas.append(quota)
    return quotas


def _quota(folder: Path) -> float | None:
    try:
        if (folder / 'cpu.max').is_file():
            quota, period = (folder / 'cpu.max').read_text().split()
        else:
            quota = (folder / 'cpu.cfs_quota_us').read_text()
            period = (folder / 'cpu.cfs_period_us').read_text()
        return int(quota) / int(period) if int(quota) > 0 else None  # 'max' and -1: no limit
    except (OSError, ValueError):
        return None


def choose_threads(cpus: int, workers: int) -> int:
    """Count the threads that a process computes with.

    Args:
        cpus (int): CPUs that are its share.
        workers (int): Its data workers, each of which wants one for part of the time.

    Returns:
        int: All but one for each worker, which leaves them a quarter of the CPUs at most: where
            the CPU computes a model, they rest most of the time.
    """
    return max(1, cpus - min(workers, cpus // 4))


def set_threads(workers: int, on_gpu: bool) -> None:
    """Give PyTorch's operators on the CPU as many threads as this process may have.

    What the user says by ``OMP_NUM_THREADS`` or ``MKL_NUM_THREADS`` stays. On a GPU, where the CPU
    computes little, threads are only kept from being more than the CPUs that a container grants.

    Args:
        workers (int): Data workers of this process.
        on_gpu (bool): Whether the model is on a GPU.
    """
    import torch

    share = share_of_cpus()
    if not _user_variables() and not on_gpu:
        torch.set_num_threads(choose_threads(share, workers))
    elif not _user_variables() and torch.get_num_threads() > share:
        torch.set_num_threads(share)


def share_of_cpus() -> int:
    """The CPUs of this machine for each of the processes that torchrun started on it.

    Returns:
        int: At least 1.
    """
    return max(1, available_cpus() // int(os.environ.get('LOCAL_WORLD_SIZE', 1)))


def _user_variables() -> list[str]:
    """Variables by which the user, and not tools/_launch.py, says how many threads there are."""
    if os.environ.get(LAUNCHER_CHOSE_THREADS):
        return []
    return [name for name in THREAD_VARIABLES if name in os.environ]


def describe_threads(workers: int) -> str:
    """Describe how this process uses the CPUs, for the log.

    Args:
        workers (int): Data workers of this process.

    Returns:
        str: Numbers, and the environment variables that say how threads wait.
    """
    import torch

    threads, share = torch.get_num_threads(), share_of_cpus()
    text = f'{threads} thread{"s"[: threads != 1]} and {workers} data worker{"s"[: workers != 1]}'
    text += f' on {share} CPU{"s"[: share != 1]}'
    said = [*_user_variables(), *(name for name in WAIT_VARIABLES if name in os.environ)]
    return text + (f' ({" ".join(f"{name}={os.environ[name]}" for name in said)})' if said else '')
