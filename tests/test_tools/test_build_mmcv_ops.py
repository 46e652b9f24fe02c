# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""tools/build_mmcv_ops.sh, short of compiling: the test command itself goes through that."""

import platform
import sys

import pytest
import torch

SCRIPT = ('bash', 'tools/build_mmcv_ops.sh')
NAME = (
    f'onedl-mmcv-*_torch-{torch.__version__}_cp{sys.version_info[0]}{sys.version_info[1]}_'
    f'{platform.machine()}_cpu'
)


@pytest.fixture
def wheels(tmp_path, cpu_env, monkeypatch):
    folder = tmp_path / 'wheels'
    monkeypatch.setitem(cpu_env, 'MMMOKD_WHEELS', str(folder))
    return folder


def fake_pip(tmp_path, cpu_env, monkeypatch, files):
    """A Python whose `pip wheel` writes a wheel of these files at once."""
    python = tmp_path / 'python'
    python.write_text(
        f'#!{sys.executable}\n'
        'import os, sys, zipfile\n'
        "if sys.argv[1:4] != ['-m', 'pip', 'wheel']:\n"
        f'    os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])\n'
        "folder = sys.argv[sys.argv.index('--wheel-dir') + 1]\n"
        'os.makedirs(folder)\n'
        "with zipfile.ZipFile(folder + '/onedl_mmcv-0-py3-none-any.whl', 'w') as wheel:\n"
        f'    for name in {files!r}:\n'
        "        wheel.writestr(name, '')\n"
        "print('FORCE_CUDA', os.environ['FORCE_CUDA'])\n"
    )
    python.chmod(0o755)
    monkeypatch.setitem(cpu_env, 'PYTHON', str(python))


def test_a_wheel_is_built_once_and_kept(run, tmp_path, cpu_env, monkeypatch, wheels):
    fake_pip(tmp_path, cpu_env, monkeypatch, ['mmcv/_ext.cpython-311.so'])
    done = run(*SCRIPT)
    assert done.returncode == 0, done.stdout
    assert 'compiling the operators of onedl-mmcv==' in done.stdout
    assert 'minutes for the CPU' in done.stdout
    (folder,) = (path for path in wheels.glob(NAME) if path.is_dir())
    assert done.stdout.splitlines()[-1] == str(folder / 'onedl_mmcv-0-py3-none-any.whl')
    done = run(*SCRIPT)
    assert done.stdout.splitlines() == [
        f'[ops] found {folder}',
        str(folder / 'onedl_mmcv-0-py3-none-any.whl'),
    ]


def test_a_wheel_without_operators_is_refused(run, tmp_path, cpu_env, monkeypatch, wheels):
    fake_pip(tmp_path, cpu_env, monkeypatch, ['mmcv/__init__.py'])
    done = run(*SCRIPT)
    assert done.returncode == 1
    assert 'the wheel came out without operators' in done.stdout
    assert not [path for path in wheels.iterdir() if path.is_dir()]


def test_cuda_without_a_gpu_is_an_error(run, cpu_env, monkeypatch, wheels):
    monkeypatch.setitem(cpu_env, 'MMMOKD_CUDA', '1')
    done = run(*SCRIPT)
    assert done.returncode == 1
    assert 'error: MMMOKD_CUDA=1, but no GPU that PyTorch can use' in done.stdout
