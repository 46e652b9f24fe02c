# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from mmmokd.utils import cpu


@pytest.fixture
def threads(monkeypatch):
    """Takes the user's variables away; puts the number of threads back."""
    for name in (*cpu.THREAD_VARIABLES, *cpu.WAIT_VARIABLES, 'LOCAL_WORLD_SIZE'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv(cpu.LAUNCHER_CHOSE_THREADS, raising=False)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    'said', [{}, dict(OMP_WAIT_POLICY='ACTIVE'), dict(GOMP_SPINCOUNT='5'), dict(KMP_BLOCKTIME='1')]
)
def test_wait_policy_of_the_user_stays(said):
    environ = dict(said)
    cpu.set_wait_policy(environ)
    assert environ == (said or cpu.WAIT_POLICY)


@pytest.mark.parametrize(
    'files, expected',
    [
        ({}, 8),
        ({'proc/self/cgroup': '0::/\n', 'sys/fs/cgroup/cpu.max': '250000 100000\n'}, 2),
        ({'proc/self/cgroup': '0::/\n', 'sys/fs/cgroup/cpu.max': 'max 100000\n'}, 8),
        ({'proc/self/cgroup': '0::/\n', 'sys/fs/cgroup/cpu.max': '20000 100000\n'}, 1),
        # The nearest limit above counts as well.
        (
            {
                'proc/self/cgroup': '0::/a/b\n',
                'sys/fs/cgroup/a/b/cpu.max': 'max 100000',
                'sys/fs/cgroup/a/cpu.max': '400000 100000',
            },
            4,
        ),
        # In a container: the path is the host's.
        (
            {
                'proc/self/cgroup': '0::/docker/1234\n',
                'sys/fs/cgroup/cpu.max': '300000 100000',
            },
            3,
        ),
        # Version 1.
        (
            {
                'proc/self/cgroup': '3:cpu,cpuacct:/jobs\n2:memory:/x\n',
                'sys/fs/cgroup/cpu/jobs/cpu.cfs_quota_us': '600000',
                'sys/fs/cgroup/cpu/jobs/cpu.cfs_period_us': '100000',
                'sys/fs/cgroup/cpu/cpu.cfs_quota_us': '-1',
                'sys/fs/cgroup/cpu/cpu.cfs_period_us': '100000',
            },
            6,
        ),
    ],
)
def test_available_cpus(tmp_path, monkeypatch, files, expected):
    monkeypatch.setattr('os.sched_getaffinity', lambda pid: set(range(8)))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu.available_cpus(tmp_path) == expected


@pytest.mark.parametrize(
    'cpus, workers, expected',
    [(1, 4, 1), (2, 4, 2), (4, 1, 3), (4, 0, 4), (16, 2, 14), (16, 8, 12)],
)
def test_workers_get_a_quarter_of_the_cpus_at_most(cpus, workers, expected):
    assert cpu.choose_threads(cpus, workers) == expected


@pytest.mark.parametrize(
    'env, on_gpu, before, expected',
    [
        ({}, False, 1, 6),
        ({'LOCAL_WORLD_SIZE': '2'}, False, 1, 3),
        ({'LOCAL_WORLD_SIZE': '16'}, False, 1, 1),
        ({'OMP_NUM_THREADS': '2'}, False, 2, 2),
        ({'MKL_NUM_THREADS': '2'}, False, 2, 2),
        ({'OMP_NUM_THREADS': '1', cpu.LAUNCHER_CHOSE_THREADS: '1'}, False, 1, 6),
        ({}, True, 2, 2),
        ({}, True, 16, 8),
        ({'OMP_NUM_THREADS': '16'}, True, 16, 16),
    ],
)
def test_threads(threads, monkeypatch, env, on_gpu, before, expected):
    monkeypatch.setattr(cpu, 'available_cpus', lambda: 8)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    torch.set_num_threads(before)
    cpu.set_threads(2, on_gpu)
    assert torch.get_num_threads() == expected
    said = cpu.describe_threads(2)
    plural = 's' * (expected > 1)
    assert said.startswith(f'{expected} thread{plural} and 2 data workers on ')
    by_user = 'OMP_NUM_THREADS' in env and cpu.LAUNCHER_CHOSE_THREADS not in env
    assert ('OMP_NUM_THREADS=' in said) == by_user
