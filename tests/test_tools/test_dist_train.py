# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmmokd.weights import read_checkpoint

TOOLS = Path(__file__).resolve().parents[2] / 'tools'
pytestmark = pytest.mark.dist


def test_two_processes_on_the_cpu_train_as_one(run, tiny_config, tmp_path):
    # LeNet-5 has neither batch norm nor dropout, so two processes of two images each take the
    # steps of one process with the same four: the mean of the gradients is the same.
    options = ('--cfg-options', 'train_dataloader.sampler.shuffle=False')
    two, one = tmp_path / 'two', tmp_path / 'one'
    train = ('bash', TOOLS / 'dist_train.sh', tiny_config, 2, '--work-dir', two)
    done = run(*train, *options, 'sync_bn=torch', cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert 'No GPU: SyncBN runs on GPUs only' in done.stdout
    train = (sys.executable, TOOLS / 'train.py', tiny_config, '--work-dir', one)
    done = run(*train, *options, 'train_dataloader.batch_size=4')
    assert done.returncode == 0, done.stdout

    weights = read_checkpoint(two / 'epoch_1.pth')['state_dict']
    for key, value in read_checkpoint(one / 'epoch_1.pth')['state_dict'].items():
        torch.testing.assert_close(weights[key], value, rtol=1e-5, atol=1e-7)

    out = tmp_path / 'metrics.json'
    checkpoint = two / 'epoch_1.pth'
    test = ('bash', TOOLS / 'dist_test.sh', tiny_config, checkpoint, 2)
    done = run(*test, '--work-dir', two, '--out', out, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert 0 <= json.loads(out.read_text())['accuracy/top1'] <= 100


def test_two_processes_train_mokd(run, mokd_config, tmp_path):
    # Each process has half of the images of a step; learning rates follow the whole. The first
    # writes the log and the checkpoint.
    options = ('--cfg-options', 'train_cfg.max_epochs=12', 'train_dataloader.batch_size=2')
    train = ('bash', TOOLS / 'dist_train.sh', mokd_config, 2, '--work-dir', tmp_path)
    done = run(*train, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert 'No GPU: SyncBN runs on GPUs only' in done.stdout
    lines = [line for line in done.stdout.splitlines() if 'Epoch(train)' in line]
    assert len(lines) == 24 and all(' vit.loss_ct.cnn: ' in line for line in lines)
    assert 'current batch size is 4' in done.stdout

    checkpoint = read_checkpoint(tmp_path / 'epoch_12.pth')
    assert checkpoint['meta']['iter'] == 24
    weights = checkpoint['state_dict']
    assert not any(key.startswith('module.') for key in weights)
    for branch, peer in (('cnn', 'vit'), ('vit', 'cnn')):
        for head in ('sm', 'st', f'cm.{peer}'):
            center = weights[f'branches.{branch}.heads.{head}.center']
            assert center.isfinite().all() and center.abs().max() > 0


def test_mistake_is_the_last_that_is_said(run, tiny_config, tmp_path):
    train = ('bash', TOOLS / 'dist_train.sh', tiny_config, 2, '--work-dir', tmp_path)
    done = run(*train, '--cfg-options', 'train_cfg.max_epoch=1')
    assert done.returncode == 2
    end = done.stdout[done.stdout.rindex('\nerror: ') :]
    assert 'train_cfg takes no max_epoch. Did you mean max_epochs?' in end
    assert len(end.splitlines()) == 3


def test_fault_keeps_the_report_of_torchrun(run, tmp_path):
    fault = tmp_path / 'fault.py'
    fault.write_text('1 / 0')
    done = run(sys.executable, TOOLS / '_launch.py', '--standalone', fault)
    assert done.returncode == 1
    assert 'ZeroDivisionError' in done.stdout and 'FAILED' in done.stdout


@pytest.mark.parametrize(
    'script, given, passed',
    [
        ('slurm_train.sh', ['c.py', 'out', '--amp'], 'train.py c.py --work-dir=out --amp'),
        ('slurm_test.sh', ['c.py', 'a.pth', '--out', 'm.json'], 'test.py c.py a.pth --out m.json'),
    ],
)
def test_slurm_scripts_pass_their_arguments(cpu_env, tmp_path, script, given, passed):
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\necho "$@"\n')
    srun.chmod(0o755)
    done = subprocess.run(
        ['bash', str(TOOLS / script), 'partition', 'job', *given],
        env={**cpu_env, 'PATH': f'{tmp_path}:{cpu_env["PATH"]}', 'GPUS': '16', 'SRUN_ARGS': '-x a'},
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith('--partition=partition --job-name=job --gres=gpu:8 --ntasks=16')
    assert ' -x a ' in done.stdout
    assert done.stdout.endswith(f'/tools/{passed} --launcher slurm\n')


@pytest.mark.parametrize('arguments', [[], ['config.py'], ['config.py', 'two']])
def test_usage(run, arguments):
    done = run('bash', 'tools/dist_train.sh', *arguments)
    assert done.returncode == 2
    assert 'usage: bash tools/dist_train.sh' in done.stdout or "not 'two'" in done.stdout
