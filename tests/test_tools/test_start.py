# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Start of a tool: it reads its arguments without the libraries that take seconds."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from mmmokd.evaluation.metrics.linear_probe_metric import DEFAULT_LRS
from mmmokd.evaluation.report import KS

TOOLS = Path(__file__).resolve().parents[2] / 'tools'
NAMES = sorted(
    str(path.relative_to(TOOLS))
    for path in TOOLS.rglob('*.py')
    if not path.name.startswith('_')
    and path.name not in ('children.py', 'run_case.py')  # which benchmarks call
    and "__name__ == '__main__'" in path.read_text()
)
SLOW = {'mmcv', 'mmdet', 'mmengine.runner', 'mmpretrain', 'mmseg', 'timm', 'torch', 'torchvision'}


def imported(name, *arguments, cpu_env):
    """Names of the modules that a tool imports, its exit status, and what it says."""
    command = [sys.executable, '-X', 'importtime', TOOLS / name, *arguments]
    ended = subprocess.run(command, env=cpu_env, capture_output=True, text=True)
    lines = ended.stderr.splitlines()
    modules = {line.rpartition('|')[2].strip() for line in lines if line.startswith('import time:')}
    said = [line for line in lines if not line.startswith('import time:')]
    return modules, ended.returncode, '\n'.join([ended.stdout, *said])


@pytest.mark.parametrize('name', NAMES)
def test_help_needs_no_library_that_takes_seconds(name, cpu_env):
    modules, status, said = imported(name, '--help', cpu_env=cpu_env)
    assert status == 0 and said.lstrip().startswith('usage:')
    assert 'mmengine' in modules and not modules & SLOW


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['config.py', '--lr', '1'], 'unrecognized arguments: --lr 1'),
        (['config.py', '--cfg-options', 'a=1,2', 'b'], "'b' is not of the form KEY=VALUE"),
    ],
)
def test_wrong_arguments_are_said_as_fast(arguments, message, cpu_env):
    modules, status, said = imported('train.py', *arguments, cpu_env=cpu_env)
    assert status == 2 and message in said
    assert not modules & SLOW


def test_defaults_are_those_of_the_package():
    """They stand a second time in what is light to import, for the help of the tools."""
    evaluate = runpy.run_path(str(TOOLS / 'evaluate.py'))
    assert (evaluate['KS'], evaluate['LRS']) == (KS, DEFAULT_LRS)


def test_a_tool_registers_all_before_it_reads_a_config(cpu_env):
    """`custom_imports` of mmmokd finds it imported, and does nothing."""
    program = (
        '__mmmokd_reads_arguments_first__ = True\n'
        'import sys\n'
        'import mmmokd.cli.run_tool\n'
        "assert 'torch' not in sys.modules\n"
        'import mmmokd.cli.config\n'
        'from mmengine.registry import WEIGHT_INITIALIZERS\n'
        "print(WEIGHT_INITIALIZERS.get('Pretrained').__module__)\n"
    )
    ended = subprocess.run(
        [sys.executable, '-c', program], env=cpu_env, capture_output=True, text=True
    )
    # mmpretrain may say before what it could not import.
    assert ended.stdout.split()[-1:] == ['mmmokd.weights.pretrained_init'], ended.stderr
